"""The items of an answer in the order of any other search, worked out once for all its pages; rows of one page."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from pairloom.search.fitting import unmet_words
from pairloom.search.options import Options
from pairloom.search.query import MAX_K, Query, ranked
from pairloom.search.web.served import ServedRelease
from pairloom.storage.releases import Cutoff

FIRST, NEXT, GROWTH = 64, 128, 4
"""Up to so many items are ranked as they are wanted, a first page; then so many, and how many times more each time."""


@dataclass(frozen=True)
class Ranking:
    """Items by similarity, best first."""

    row_ids: npt.NDArray[np.int64]
    scores: npt.NDArray[np.float64]
    fits: Sequence[bool | None]
    """Whether each reaches the release's cut-off; None where there is none."""
    cutoff: Cutoff | None
    unmet_words: tuple[str, ...]
    complete: bool
    """Whether no item is left out that fulfils the condition."""


def rank(release: ServedRelease, query: Query, options: Options, wanted: int) -> Ranking:
    """At least `wanted` items, where there are so many. ValueError for what can't be asked."""
    size = wanted if wanted <= FIRST else NEXT
    while size < wanted:
        size *= GROWTH
    size = min(size, MAX_K)
    rows, cutoff = ranked(release, query, options, depth=size, columns=["item_id", "_rowid"])
    return Ranking(
        row_ids=rows["_rowid"].to_numpy().astype(np.int64),
        scores=rows["score"].to_numpy().astype(np.float64),
        fits=rows["fits"].to_pylist() if cutoff else [None] * len(rows),
        cutoff=cutoff,
        unmet_words=unmet_words(release, query),
        complete=len(rows) < size,
    )


def all_rows(release: ServedRelease, where: str | None, offset: int, count: int) -> list[int]:
    """Row ids of the items that fulfil a condition, in the order of the table: what is there where nothing is asked."""
    from pairloom.search.filters import bad_filter, lance_filter

    condition = None if where is None else lance_filter(where, release.columns, release.times)
    try:
        found = release.dataset.scanner(
            columns=["item_id"], filter=condition, with_row_id=True, offset=offset, limit=count
        ).to_table()
    except (ValueError, OSError, RuntimeError) as error:
        if where is None:
            raise
        raise bad_filter(where, str(error), release.columns) from error
    ids: list[int] = found["_rowid"].to_pylist()
    return ids


def rows_of(release: ServedRelease, row_ids: Sequence[int], columns: Sequence[str]) -> list[dict[str, Any]]:
    """`columns` of some rows, in the order of their ids. LookupError where there is no such row."""
    if not row_ids:
        return []
    try:
        found = release.dataset._take_rows(list(row_ids), columns=list(columns))
    except (ValueError, OSError, RuntimeError, IndexError) as error:
        raise LookupError(f"release {release.record.number} has no such row") from error
    rows: list[dict[str, Any]] = found.to_pylist()
    if len(rows) != len(row_ids):
        raise LookupError(f"release {release.record.number} has no such row")
    return rows
