"""What `evaluation:` and `gate:` of a pipeline say."""

from typing import Literal

from pydantic import BaseModel, Field, field_validator

DIRECTIONS = ("text_to_image", "image_to_text")
NDCG_DEPTH = 10
CLASSIFIERS = ("logistic", "svm", "knn")
"""What probes learn with."""
NOVELTY = ("novel_text", "novel_group")
"""Slices of every night's own."""


class EvaluationConfig(BaseModel, frozen=True, extra="forbid", use_attribute_docstrings=True):
    """What is reported about a model."""

    k: tuple[int, ...] = Field(default=(1, 5, 10), min_length=1)
    """Recall is reported among this many best candidates."""
    slices: tuple[str, ...] = ()
    """Columns by whose values every metric is reported, too."""
    probes: tuple[str, ...] = ()
    """Columns (`group`, `split` or a kept one) whose values are read off the image embeddings by logistic regression, a
    linear SVM and nearest neighbours, learned from at most 5,000 training items of the 200 most frequent values."""
    confidence: float = Field(default=0.95, gt=0, lt=1)
    """Level of every metric's interval (bootstrap over queries)."""
    seed: int = Field(default=0, ge=0)
    """Of the bootstrap, and of the training items that probes learn from."""

    @field_validator("slices")
    @classmethod
    def _names_are_free(cls, slices: tuple[str, ...]) -> tuple[str, ...]:
        for name in slices:
            if name in NOVELTY:
                raise ValueError(
                    f"{name} is a slice of Pairloom's own; keep your column under another name: "
                    f"keep: {{my_{name}: {{column: {name}, type: string}}}}, slices: [my_{name}]"
                )
        return slices


class RowsGateConfig(BaseModel, frozen=True, extra="forbid", use_attribute_docstrings=True):
    """When a night's rows are held, beside what is released. `confidence`, `seed` and `when_unsure` are the gate's."""

    accept: bool = False
    """Let the rows in whatever is found, as `--accept-changes` does for one night."""
    max_changed: float = Field(default=0.5, ge=0, le=1)
    """Largest share of the released items whose captions, or pictures, may change in one night; also of those that may
    be gone since the median of the retained releases, and how far the new and changed rows may be from the released
    items in how many have the captions or pictures of others, or no value in a column."""
    min_agreement: float = Field(default=0.5, ge=0, le=1)
    """How far the texts of new or changed rows must be about their images, by the champion: 0 is what mismatched pairs
    have, 1 what items have that it was not trained on."""
    min_share: float = Field(default=0.005, ge=0, le=1)
    """Share of the released items that is worth a held night: what fewer rows have is only reported."""


class GateConfig(BaseModel, frozen=True, extra="forbid", use_attribute_docstrings=True):
    """What a challenger must reach to be released, and the rows of a night to be served."""

    min: dict[str, float] = {}
    """Lowest acceptable value by metric, such as `text_to_image_recall@10: 0.2`, of a slice with `/column=value` behind
    it; not of a median rank, where lower is better. A challenger is held where one can't be measured."""
    max_regression: float = Field(default=0.01, ge=0, le=1)
    """How far a headline metric may fall below the champion's, and below that of the best retained release."""
    confidence: float = Field(default=0.95, gt=0, lt=1)
    """Level at which all differences together are judged (paired bootstrap over queries)."""
    when_unsure: Literal["release", "hold"] = "release"
    """What becomes of a challenger where the validation queries are too few to tell whether it fell by more than
    `max_regression`. `hold` wants proof that it didn't, which takes thousands of them."""
    first: Literal["chance", "none"] = "chance"
    """What a first model must beat: what an order by chance would find, or nothing."""
    seed: int = Field(default=0, ge=0)
    """Of the bootstrap."""
    rows: RowsGateConfig = RowsGateConfig()
    """What a night's rows must be like."""

    @field_validator("min")
    @classmethod
    def _higher_is_better(cls, floors: dict[str, float]) -> dict[str, float]:
        for metric in floors:
            if metric.partition("/")[0].endswith("_median_rank"):
                raise ValueError(
                    f"{metric}: lower is better, so a floor would hold the good models; set one for a recall@k, "
                    "map@r or ndcg@10 instead"
                )
        return floors


def measured(config: EvaluationConfig) -> list[str]:
    """The metrics that a floor can stand on, but for what slices add to their names."""
    kinds = [*(f"recall@{k}" for k in config.k), "map@r", f"ndcg@{NDCG_DEPTH}"]
    directions = (*DIRECTIONS, "image_to_image")
    probes = [f"probe_{column}_{classifier}" for column in config.probes for classifier in CLASSIFIERS]
    return [*(f"{direction}_{kind}" for direction in directions for kind in kinds), *probes]
