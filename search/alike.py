"""Which items of a release are nearly copies of one another, and which are like no others."""

# N = items, D = embedding, K = neighbours

import contextlib
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pairloom.models.arrays import Embeddings, Indices, Mask, Scores
from pairloom.models.mining import cells, likeness
from pairloom.models.mining.cells import Places, Progress
from pairloom.storage.table.index import COLUMN

if TYPE_CHECKING:
    from pairloom.search.release import OpenRelease

EXACT = 20_000
"""Items of which all pairs are compared: of more, those in cells."""
IN_MEMORY = 2**28
"""Bytes of vectors that are held; more lie in a temporary file, of which the system keeps in memory what it likes."""
AT_ONCE = 8_192


@dataclass(frozen=True)
class Vectors:
    """Image vectors of items, in the order of their ids."""

    rows: pa.Table
    """`item_id`, and what was asked for beside it."""
    order_N: Indices
    """Places of the items in what the same filter finds."""
    vector_ND: Embeddings

    @property
    def ids(self) -> pa.ChunkedArray:
        """Their ids."""
        return self.rows["item_id"]

    @property
    def all_compared(self) -> bool:
        """Whether each is compared with all others."""
        return len(self.vector_ND) <= EXACT

    def close_pairs(self, threshold: float, *, most: int, progress: Progress) -> tuple[Indices, Indices, Scores]:
        """Places of the items of each pair with at least that cosine, and that; nearest first.

        All such pairs of up to `EXACT` items; of more, `models.mining.cells` may miss some. `progress` may raise.
        Raises PairLimitError for more than `most` pairs.
        """
        if self.all_compared:
            return likeness.similar_pairs(self.vector_ND, threshold, most=most, check=lambda: progress(0))
        return cells.close_pairs(self.vector_ND, threshold, most=most, progress=progress)

    def nearest_others(self, k: int, *, progress: Progress) -> tuple[Places, Scores]:
        """Places of the `k` others nearest to each item, nearest first, and their cosines (N, K).

        Exact up to `EXACT` items. Of more, some are missed; where fewer are found, the item itself stands with -1.
        """
        find = likeness.nearest_others if self.all_compared else cells.nearest_others
        return find(self.vector_ND, k, progress=progress)

    def outliers(
        self, k: int, neighbours: int, *, progress: Progress, known_NK: Scores | None = None
    ) -> tuple[Indices, Scores, Mask]:
        """Places of the `k` items with the least mean cosine to so many nearest others, that, and whether it is sure
        that they belong there; least like first. `known_NK`: what `nearest_others` has found.

        Raises ValueError for too large a `k` or too many `neighbours`, where there are more than `EXACT` items.
        """
        if not self.all_compared:
            return cells.loneliest(self.vector_ND, k, neighbours, progress=progress, known_NK=known_NK)
        if known_NK is not None and known_NK.shape[1]:
            mean_N = known_NK.mean(axis=1)
        else:
            mean_N = likeness.neighbour_means(self.vector_ND, neighbours, check=partial(progress, 0))
        far_K = np.argsort(mean_N, kind="stable")[:k]
        return far_K, mean_N[far_K], np.ones(len(far_K), bool)


@contextlib.contextmanager
def image_vectors(
    release: "OpenRelease", condition: str | None, progress: Progress, *, beside: Sequence[str] = ()
) -> Iterator[Vectors]:
    """Those of the items that fulfil a Lance filter, while they are needed; `beside` are further columns."""
    found = release.dataset.to_table(columns=["item_id", *beside], filter=condition)
    order_N = pc.sort_indices(found["item_id"]).to_numpy().astype(np.int64)
    with _matrix(release, COLUMN, condition, order_N, progress) as vector_ND:
        yield Vectors(found.take(order_N), order_N, vector_ND)


@contextlib.contextmanager
def text_vectors(release: "OpenRelease", items: Vectors, progress: Progress) -> Iterator[Embeddings]:
    """The text vectors of all items of a release, in the order of `items`, while they are needed."""
    with _matrix(release, "text_vector", None, items.order_N, progress) as vector_ND:
        yield vector_ND


@contextlib.contextmanager
def _matrix(
    release: "OpenRelease", column: str, condition: str | None, order_N: Indices, progress: Progress
) -> Iterator[Embeddings]:
    """A column's vectors, of the items that a filter finds, in an order."""
    width = release.record.dimension
    row_N = np.empty(len(order_N), np.int64)
    row_N[order_N] = np.arange(len(order_N))
    with _room(len(order_N), width) as vector_ND:
        start = 0
        for batch in release.dataset.scanner(columns=[column], filter=condition, batch_size=AT_ONCE).to_batches():
            progress(start / len(order_N))
            flat = batch[column].flatten().to_numpy(zero_copy_only=False)
            vector_ND[row_N[start : start + len(batch)]] = flat.reshape(-1, width)
            start += len(batch)
        yield vector_ND


@contextlib.contextmanager
def _room(rows: int, width: int) -> Iterator[Any]:
    """An array for so many vectors."""
    size = rows * width * 4
    if size <= IN_MEMORY:
        yield np.empty((rows, width), np.float32)
        return
    with tempfile.TemporaryFile() as file:
        # Written, not only made so long: a full disk is an error here, and the end of the process later.
        for start in range(0, size, 2**24):
            file.write(bytes(min(2**24, size - start)))
        file.flush()
        yield np.asarray(np.memmap(file, np.float32, "r+", shape=(rows, width)))
