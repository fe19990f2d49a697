"""What stages hand to one another: small frozen refs to what is stored, never tables or tensors."""

from typing import Literal

from pydantic import BaseModel

from pairloom.models.evaluation.config import DIRECTIONS
from pairloom.models.evaluation.findings import Finding
from pairloom.storage.quarantine import ReasonCount, explained
from pairloom.storage.releases import Cutoff, Release, Training


class Ref(BaseModel, frozen=True, extra="forbid"):
    """Base of all refs: they travel as JSON between processes and machines."""

    @property
    def summary(self) -> str:
        """What the stage that hands it on did, in a few words."""
        raise NotImplementedError


class SnapshotRef(Ref):
    """The corpus after tonight's ingest, and what became of the rows seen."""

    number: int
    digest: str
    rows: int
    rows_seen: dict[str, int]
    removals_held: tuple[str, ...] = ()
    """A sentence for each source whose items stay because too many would leave at once."""
    rejected: tuple[ReasonCount, ...] = ()
    """Tonight's rows that are no items, by reason; not those that `where` leaves out."""
    rows_held: str = ""
    """Why tonight's rows are not believed; empty where they are."""

    @property
    def summary(self) -> str:
        """Rows that came, what they changed, items there are."""
        changes = [f"{self.rows_seen.get(name, 0):,} {name}" for name in ("new", "updated", "removed")]
        return f"{', '.join(changes)}, of {self.rows_seen['seen']:,} rows; {self.rows:,} items"

    @property
    def explained(self) -> str:
        """Why rows are no items, in a sentence; empty where all are, or are duplicates."""
        return explained(self.rejected, self.rows_seen.get("seen", 0))


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
    """The model that serves."""
    champion_measured: str | None = None
    """The one that was measured, where they are two."""
    champion_rows: int
    """Items that the current release serves."""
    champion_metrics: dict[str, float]
    champion_intervals: dict[str, tuple[float, float]] = {}
    best: int | None = None
    """Number of the best retained release of another model than the champion, if any."""
    best_model: str | None = None
    """The model that was measured for it."""
    brings_rows: bool
    """Whether a release stands that does not serve this snapshot, and is to."""
    rows_held: bool = False
    """Whether tonight's rows are not believed, so that nothing follows from them."""
    approval: str = ""
    """What is to be said of a challenger that a person was asked about."""
    waits: bool = False
    """Whether nothing follows because a challenger waits for a person, or nothing is served as one was refused."""
    training: Training | None = None
    """Of a challenger that a person has approved; None for a night, whose training is tonight's."""
    findings: tuple[Finding, ...] = ()
    """What was found of tonight's rows."""

    @property
    def rival(self) -> str | None:
        """The model that a challenger is compared with and starts from, and that mines and looks at rows: it has not
        learned from validation items, whichever model serves."""
        return self.champion_measured or self.champion_model

    def measured(self, model_id: str, verdict: "Verdict | None") -> str:
        """The model whose figures tell how good `model_id` is, which tonight may serve: another one for a refit."""
        if verdict and verdict.refit and verdict.model_id and verdict.refit.model_id == model_id:
            return verdict.model_id
        return self.rival if self.rival and model_id == self.champion_model else model_id

    @property
    def summary(self) -> str:
        """What follows, and why."""
        return self.reason if self.action == "nothing" else f"{self.action}, {self.reason}"

    def after(self, admission: "Admission") -> "Plan":
        """What is left of it once the rows have been looked at: where they are held, nothing."""
        looked = self.model_copy(update={"findings": admission.findings})
        if admission.passed and not admission.reasons:
            return looked
        said = "; ".join(admission.reasons)
        if admission.passed:
            return looked.model_copy(update={"reason": f"{self.reason}; accepted although {said}"})
        held = f"{said}. What is served stays until the sources are mended, or a night runs with --accept-changes"
        update = {"action": "nothing", "reason": held, "brings_rows": False, "rows_held": True}
        return looked.model_copy(update=update)


class Admission(Ref):
    """The word on tonight's rows."""

    passed: bool
    reasons: tuple[str, ...]
    """What speaks against them; nothing follows from it where they are accepted all the same."""
    findings: tuple[Finding, ...]

    @property
    def summary(self) -> str:
        """What was found."""
        return f"{'admitted' if self.passed else 'held'}, {'; '.join(self.reasons) or f'{len(self.findings)} measures'}"


class PairsRef(Ref):
    """Mined pairs."""

    pairs_id: str
    positives: int
    negatives: int

    @property
    def summary(self) -> str:
        """How many pairs there are."""
        return f"{self.positives:,} positives, {self.negatives:,} negatives"


class ModelRef(Ref):
    """A trained challenger."""

    model_id: str | None
    """None where the training went wrong."""
    unfit: str = ""
    """Why there is no model."""
    trunk: str = ""
    """Digest of its image tower's frozen trunk, whose features are kept; empty where it has none."""
    text_trunk: str = ""
    """The same of its text tower."""
    steps: int
    samples: int
    seconds: float
    loss: float | None
    """Of the last step; None without any."""

    @property
    def summary(self) -> str:
        """How long it learned, and to what loss."""
        learned = "no step, the start as it is" if self.loss is None else f"{self.steps:,} steps, loss {self.loss:.3f}"
        return self.unfit or learned


class Floor(Ref):
    """What textbook features reach without training on the items that a challenger was asked."""

    metrics: dict[str, float]
    intervals: dict[str, tuple[float, float]]
    """Low and high end of each of `metrics`, at `evaluation.confidence`."""
    items: int
    """Training items that they were fitted on."""
    of: int
    """Training items that there are."""

    @property
    def summary(self) -> str:
        """Recall both ways, at the smallest and the largest measured k up to 10."""
        recalls: dict[int, list[str]] = {}
        for direction in DIRECTIONS:
            for name, value in self.metrics.items():
                if name.startswith(f"{direction}_recall@") and "/" not in name:
                    recalls.setdefault(int(name.rpartition("@")[2]), []).append(f"{value:.3f}")
        first, last = min(recalls), max([k for k in recalls if k <= 10], default=max(recalls))
        said = ", ".join(f"{' / '.join(recalls[k])} @{k}" for k in dict.fromkeys((first, last)))
        drawn = f", fitted on {self.items:,} of {self.of:,} training items" if self.items < self.of else ""
        return f"textbook features without training reach {said} (text → image / image → text{drawn})"


class Refit(Ref):
    """A challenger that passed, after it has learned from all items."""

    model_id: str | None
    """None where that training gave none."""
    serves: bool
    """Whether it is to serve in the place of the one that was measured."""
    said: str
    """What it was trained on, and what came of it, in a sentence."""
    metrics: dict[str, float] = {}
    """On the validation items, which it has learned from: no measure of what it does on others."""


class Verdict(Ref):
    """What the gate said of a challenger."""

    passed: bool
    model_id: str | None
    """The challenger; None where its training gave none."""
    metrics: dict[str, float]
    intervals: dict[str, tuple[float, float]] = {}
    """Low and high end of each of `metrics`, at `evaluation.confidence`."""
    champion_metrics: dict[str, float]
    """Of the champion on the same validation items; empty where there is none, or it was not asked."""
    champion_intervals: dict[str, tuple[float, float]] = {}
    best_metrics: dict[str, float] = {}
    """Of the best release before the champion, likewise."""
    reasons: tuple[str, ...]
    """Why the challenger was held."""
    comparisons: tuple[str, ...]
    """Challenger and champion on the headline metrics, a sentence each."""
    floor: Floor | None = None
    """None where there are no validation items, or by `gate.floor`."""
    refit: Refit | None = None
    """None where it didn't pass, and by `training.refit`."""

    @property
    def serving(self) -> str | None:
        """The model that serves where it passed."""
        return self.refit.model_id if self.refit and self.refit.serves else self.model_id

    @property
    def summary(self) -> str:
        """What the gate said, and what became of it since."""
        if self.passed and self.refit:
            return self.refit.said
        return "passed" if self.passed else f"held, {'; '.join(self.reasons)}"


class EmbeddingsRef(Ref):
    """All items of a snapshot, embedded by one model."""

    model_id: str
    snapshot: int
    dimension: int
    embedded: int
    """Items embedded tonight."""

    @property
    def summary(self) -> str:
        """How many items got vectors."""
        return f"{self.embedded:,} items"


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

    @property
    def summary(self) -> str:
        """How many rows there are, and how they are searched."""
        return f"{self.rows:,} rows, {self.index or 'no index'}"


class CutoffsRef(Ref):
    """The scores from which on hits are taken to fit."""

    cutoffs: dict[str, Cutoff]
    """By direction."""
    too_few: dict[str, int] = {}
    """By direction without one: how many validation queries there are at most."""

    @property
    def summary(self) -> str:
        """How good they are."""
        said = [
            f"{direction.replace('_', ' ')} {each.true_finds:.0%} true, {each.false_finds:.0%} false finds"
            for direction, each in self.cutoffs.items()
        ]
        return "; ".join(said) or "no cut-off"


class Proposal(Ref):
    """A release as it will be published: all that it names is digested, on the disk and held."""

    release: Release
    before: Release | None
    """The one that is served."""

    @property
    def summary(self) -> str:
        """How much it names."""
        return f"release {self.release.number}, {len(self.release.files):,} files"


class ReleaseRef(Ref):
    """A published release."""

    number: int
    model_id: str
    measured_model: str | None = None
    """The one that was measured, where they are two."""
    rows: int

    @property
    def summary(self) -> str:
        """Which release it is, and how much it serves."""
        return f"release {self.number}, {self.rows:,} items"


class VerifiedRef(Ref):
    """All that is kept, read through."""

    files: int
    bytes: int
    damaged: tuple[str, ...]
    """What is no longer what was written, in a sentence; nothing that is served."""

    @property
    def summary(self) -> str:
        """Whether it is whole."""
        return "; ".join(self.damaged) or f"{self.files:,} files are whole"


class CollectedRef(Ref):
    """What the end of a night deleted."""

    files: int
    bytes: int
    kept: tuple[str, ...]
    """Sentences: what could not be read, so that all that it may have named stays."""

    @property
    def summary(self) -> str:
        """How much went."""
        went = f"{self.files:,} files, {self.bytes / 2**20:,.1f} MiB deleted" if self.files else "nothing to delete"
        return f"{went}; what a damaged record may have named is kept" if self.kept else went
