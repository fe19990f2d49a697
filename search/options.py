"""How a query is answered: how many hits, of which items, in which order, with what beside them."""

from collections.abc import Collection
from dataclasses import dataclass

from pairloom.models.evaluation.similarity import Metric
from pairloom.search.exact import Side

MAX_K = 10_000


@dataclass(frozen=True)
class Options:
    """What may be said beside the query."""

    k: int = 10
    """Hits, at most."""
    offset: int = 0
    """Hits that are passed over: those of the pages before."""
    where: str | None = None
    """A SQL condition that hits fulfil."""
    columns: tuple[str, ...] | None = None
    """The table's columns that hits bring as their metadata; None for the pipeline's own."""
    metric: Metric = "cosine"
    """What the scores are; the hits and their order are the same."""
    rerank: int | None = None
    """The cross-encoder orders the nearest so many (`k` where that is more); None leaves them as they are."""
    hybrid: bool = False
    """Whether items that hold the query's words are found too, and both rankings made one."""
    diversity: float = 0.0
    """From 0, the nearest, to 1: how much hits differ from one another, `pairloom.search.diversity`."""
    collapse_duplicates: bool = False
    """Whether hits that show one picture are folded into the best of them."""
    target: Side = "image"
    """What the query is compared with: the items' images, or the mean of their texts."""

    hubness: bool | None = None
    """Whether hits for texts are ordered with their hubness taken off; None where the release says so."""
    only_fitting: bool = False
    """Whether those of the `k` that don't fit are left out."""

    @property
    def depth(self) -> int:
        """Hits down to the last one of the page."""
        return self.offset + self.k

    def check(self, columns: Collection[str]) -> None:
        """Raises ValueError for what can't be: `columns` are the table's."""
        if not 1 <= self.k <= MAX_K:
            raise ValueError(f"k is {self.k}, must be from 1 to {MAX_K}")
        if self.offset < 0 or self.depth > MAX_K:
            raise ValueError(f"offset is {self.offset}, must be from 0 to {MAX_K - self.k}: {MAX_K} hits can be seen")
        if not 0 <= self.diversity <= 1:
            raise ValueError(f"diversity is {self.diversity}, must be from 0 to 1")
        if self.target not in ("image", "text"):
            raise ValueError(f"target is {self.target!r}, must be image or text")
        if unknown := [name for name in self.columns or () if name not in columns]:
            raise ValueError(f"no column {unknown[0]!r}; columns are {', '.join(columns)}")
