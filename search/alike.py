"""Which items of a release are nearly copies of one another, and which are like no others."""

# N = items, D = embedding

import contextlib
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pairloom.models.arrays import Embeddings, Indices, Scores
from pairloom.models.mining.cells import Progress, close_pairs, loneliest
from pairloom.models.mining.likeness import neighbour_means, similar_pairs
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

    ids: pa.Array
    vector_ND: Embeddings

    def close_pairs(self, threshold: float, *, most: int, progress: Progress) -> tuple[Indices, Indices, Scores]:
        """Places of the items of each pair with at least that cosine, and that; nearest first.

        All such pairs of up to `EXACT` items; of more, `models.mining.cells` may miss some. `progress` may raise.
        Raises PairLimitError for more than `most` pairs.
        """
        if len(self.vector_ND) <= EXACT:
            return similar_pairs(self.vector_ND, threshold, most=most, check=lambda: progress(0))
        return close_pairs(self.vector_ND, threshold, most=most, progress=progress)

    def outliers(self, k: int, neighbours: int, *, progress: Progress) -> tuple[Indices, Scores]:
        """Places of the `k` items with the least mean cosine to so many nearest others, and that; least like first.

        Raises ValueError for too large a `k` or too many `neighbours`, where there are more than `EXACT` items.
        """
        if len(self.vector_ND) > EXACT:
            return loneliest(self.vector_ND, k, neighbours, progress=progress)
        mean_N = neighbour_means(self.vector_ND, neighbours, check=lambda: progress(0))
        far_K = np.argsort(mean_N, kind="stable")[:k]
        return far_K, mean_N[far_K]


@contextlib.contextmanager
def image_vectors(release: "OpenRelease", condition: str | None, progress: Progress) -> Iterator[Vectors]:
    """Those of the items that fulfil a Lance filter, while they are needed."""
    dataset, width = release.dataset, release.record.dimension
    found = dataset.to_table(columns=["item_id"], filter=condition)["item_id"].combine_chunks()
    order_N = pc.sort_indices(found)
    row_N = np.empty(len(found), np.int64)
    row_N[order_N.to_numpy()] = np.arange(len(found))
    with _room(len(found), width) as vector_ND:
        start = 0
        for batch in dataset.scanner(columns=[COLUMN], filter=condition, batch_size=AT_ONCE).to_batches():
            progress(0)
            flat = batch[COLUMN].flatten().to_numpy(zero_copy_only=False)
            vector_ND[row_N[start : start + len(batch)]] = flat.reshape(-1, width)
            start += len(batch)
        yield Vectors(found.take(order_N), vector_ND)


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
