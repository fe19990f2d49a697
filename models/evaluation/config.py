"""What `evaluation:` and `gate:` of a pipeline say."""

from pathlib import Path
from typing import Literal, Self

from pydantic import BaseModel, Field, field_validator, model_validator

DIRECTIONS = ("text_to_image", "image_to_text")
CORRECTED = "text_to_image_corrected"
"""Texts asked for images, with the images' hubness taken off."""
NDCG_DEPTH = 10
CLASSIFIERS = ("logistic", "svm", "knn")
"""What probes learn with."""
NOVELTY = ("novel_text", "novel_group")
"""Slices of every night's own."""


class GoldenQuery(BaseModel, frozen=True, extra="forbid", use_attribute_docstrings=True, coerce_numbers_to_str=True):
    """A query whose answer you know: one of `text`, `image` and `like`, and what it must find."""

    text: str | None = Field(default=None, pattern=r"\S")
    """What is searched for in words."""
    image: Path | None = None
    """A picture that is searched by, relative to the file."""
    like: str | None = None
    """An item_id whose image is searched by; the item itself is left out of what is found."""
    find: tuple[str, ...] = Field(min_length=1)
    """Ids of the items to be found."""
    k: int = Field(default=10, ge=1, le=1000)
    """They must be among this many nearest."""
    at_least: int = Field(default=1, ge=1)
    """How many of them are enough."""

    @model_validator(mode="after")
    def _one_query_with_an_answer(self) -> Self:
        if sum(each is not None for each in (self.text, self.image, self.like)) != 1:
            raise ValueError("a golden query is one of `text`, `image` and `like`")
        possible = min(len(set(self.find) - {self.like}), self.k)
        if self.at_least > possible:
            raise ValueError(f"{self.title} can find {possible} at most, so `at_least` can't be {self.at_least}")
        return self

    @property
    def title(self) -> str:
        """The query in words, for people."""
        if self.text is not None:
            return repr(self.text)
        return f"image {self.image.name}" if self.image else f"like {self.like!r}"


class EvaluationConfig(BaseModel, frozen=True, extra="forbid", use_attribute_docstrings=True):
    """What is reported about a model."""

    k: tuple[int, ...] = Field(default=(1, 5, 10), min_length=1)
    """Recall is reported among this many best candidates."""
    slices: tuple[str, ...] = ()
    """Columns by whose values every metric is reported, too."""
    probes: tuple[str, ...] = ()
    """Columns (`group`, `split` or a kept one) whose values are read off the image embeddings by logistic regression, a
    linear SVM and nearest neighbours, learned from at most 5,000 training items of the 200 most frequent values."""
    golden: tuple[GoldenQuery, ...] = ()
    """Queries with what they must find, without which nothing is released."""
    confidence: float = Field(default=0.95, gt=0, lt=1)
    """Level of every metric's interval (bootstrap over queries)."""
    seed: int = Field(default=0, ge=0)
    """Of the bootstrap, and of the training items that probes and the floor learn from."""

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
    floor: Literal["warn", "hold", "off"] = "warn"
    """What becomes of a challenger that is below the floor, which is what textbook features without training reach on
    the same queries: a warning, or it is held. `off` measures no floor."""
    approval: Literal["none", "person"] = "none"
    """What releases a challenger that passed: `none` the night at once, `person` `pairloom approve`, or the form on the
    page of the night's flow run."""
    approval_hours: float = Field(default=168, gt=0)
    """How long a challenger waits for `approval: person`; then it is held."""
    seed: int = Field(default=0, ge=0)
    """Of the bootstrap."""
    rows: RowsGateConfig = RowsGateConfig()
    """What a night's rows must be like."""

    @field_validator("floor", mode="before")
    @classmethod
    def _off_is_a_word(cls, said: object) -> object:
        """YAML reads a bare `off` as false."""
        return "off" if said is False else said

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
    corrected = [f"{CORRECTED}_recall@{k}" for k in config.k]
    probes = [f"probe_{column}_{classifier}" for column in config.probes for classifier in CLASSIFIERS]
    return [*(f"{direction}_{kind}" for direction in directions for kind in kinds), *corrected, *probes]
