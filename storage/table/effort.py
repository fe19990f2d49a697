"""How hard an index is asked: kept with the table, so that readers ask as the check did that let it pass."""

from collections.abc import Iterator
from typing import Any, Literal, Self

from pydantic import BaseModel

from pairloom.storage.table.config import IndexConfig

KEY = b"pairloom_index"
"""Of the table's metadata."""
K = 10
"""Neighbours that an index is measured by."""


class Effort(BaseModel, frozen=True, extra="forbid", use_attribute_docstrings=True):
    """How an index is asked, and what stands in for the kind that the configuration names."""

    refine_factor: int = 20
    """Candidates per wanted neighbour that are ranked again by their exact vectors: quantised ones are too coarse."""
    probes: int = 20
    """Partitions that are searched, at least."""
    kind: Literal["ivf_rq", "ivf_pq", "ivf_hnsw_sq", "none"] | None = None
    """The kind that was found to answer well enough; None where that was the one that the configuration names."""
    asked: str = ""
    """What the configuration wanted when this was found."""
    rows: int = 0
    """Rows that there were then."""

    @classmethod
    def of(cls, dataset: Any) -> Self:
        """The one that a dataset's metadata names, or the usual one."""
        named = (dataset.schema.metadata or {}).get(KEY)
        return cls.model_validate_json(named) if named else cls()

    @property
    def words(self) -> str:
        """What is done, in words."""
        if self.kind == "none":
            return "no index"
        return f"{self.kind}, {self.probes} partitions, {self.refine_factor} candidates per neighbour"

    def candidates(self, k: int, *, coarse: bool, behind: int = 0) -> int:
        """Rows that are ranked again for `k` neighbours; a `coarse` index needs as many for each of them.

        A finer one mistakes places near the end of the list only: those beyond the first ten neighbours get a
        quarter, as do, of any index, the last `behind` of the `k`, of which few are missed (benchmarks/web.md).
        """
        fully = k - behind if coarse else min(k - behind, K)
        return self.refine_factor * fully + max(1, self.refine_factor // 4) * (k - fully)

    def serves(self, config: IndexConfig, rows: int) -> bool:
        """Whether this still stands; that no index was good enough is tried again with twice the rows."""
        return self.asked == _asked(config) and (self.kind != "none" or rows < 2 * self.rows)


def greater_efforts(config: IndexConfig, rows: int) -> Iterator[Effort]:
    """What to try, in this order, where an index misses too much: the last one reads all vectors."""
    found = {"asked": _asked(config), "rows": rows}
    yield Effort(kind=config.kind, refine_factor=80, **found)
    yield Effort(kind=config.kind, refine_factor=80, probes=80, **found)
    if config.kind != "ivf_hnsw_sq":
        yield Effort(kind="ivf_hnsw_sq", refine_factor=80, probes=80, **found)
    yield Effort(kind="none", **found)


def _asked(config: IndexConfig) -> str:
    return f"{config.kind} {config.min_ann_recall}"
