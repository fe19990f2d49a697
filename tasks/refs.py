"""What stages hand to one another: small frozen refs to what is stored, never tables or tensors."""

from typing import Literal

from pydantic import BaseModel


class Ref(BaseModel, frozen=True, extra="forbid"):
    """Base of all refs: they travel as JSON between processes and machines."""


class SnapshotRef(Ref):
    """The corpus after tonight's ingest, and what became of the rows seen."""

    number: int
    digest: str
    rows: int
    rows_seen: dict[str, int]
    removals_held: tuple[str, ...] = ()
    """A sentence for each source whose items stay because too many would leave at once."""


class Plan(Ref):
    """What tonight is for: nothing, embedding new rows, or a challenger."""

    action: Literal["nothing", "embed", "retrain"]
    reason: str
    run_id: str
    training_digest: str
    """Of what shapes tonight's challenger beside the items, as it was when the night decided."""
    snapshot: int
    champion: int | None
    """Number of the current release."""
    champion_model: str | None
    champion_rows: int
    """Items that the current release serves."""
    champion_metrics: dict[str, float]
    champion_intervals: dict[str, tuple[float, float]] = {}
    brings_rows: bool
    """Whether a release stands that does not serve this snapshot."""


class PairsRef(Ref):
    """Mined pairs."""

    pairs_id: str
    positives: int
    negatives: int


class ModelRef(Ref):
    """A trained challenger."""

    model_id: str
    steps: int
    samples: int
    seconds: float
    loss: float


class Verdict(Ref):
    """What the gate said of a challenger."""

    passed: bool
    model_id: str
    """The challenger."""
    metrics: dict[str, float]
    intervals: dict[str, tuple[float, float]] = {}
    """Low and high end of each of `metrics`, at `evaluation.confidence`."""
    champion_metrics: dict[str, float]
    """Of the champion on the same validation items; empty where there is none."""
    champion_intervals: dict[str, tuple[float, float]] = {}
    reasons: tuple[str, ...]
    """Why the challenger was held."""
    comparisons: tuple[str, ...]
    """Challenger and champion on the headline metrics, a sentence each."""


class EmbeddingsRef(Ref):
    """All items of a snapshot, embedded by one model."""

    model_id: str
    snapshot: int
    dimension: int
    embedded: int
    """Items embedded tonight."""


class TableRef(Ref):
    """A candidate version of a model's vector table, checked."""

    model_id: str
    snapshot: int
    path: str
    """Relative to the pipeline's folder."""
    version: int
    rows: int
    dimension: int
    index: str | None
    ann_recall: float | None


class ReleaseRef(Ref):
    """A published release."""

    number: int
    model_id: str
    rows: int
