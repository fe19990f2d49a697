"""The nearest rows of many queries by one pass over all vectors, in blocks: exact, and made for batches."""

# Q = queries, B = rows of one block, G = groups of them, S = rows of a group, K = neighbours kept of each query,
# D = embedding, M = scores that are looked at

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pairloom.storage.table.index import Floats

Side = Literal["image", "text"]
Offsets = npt.NDArray[np.int64]

ROWS_AT_ONCE = 8_192
ROWS_AT_FIRST = 1_024
QUERIES_AT_ONCE = 1_024
GROUP = 64
"""Scores of which the largest stands for all: the best rows lie in the best groups, and no others are looked at."""
RUN = 16
"""The same of rows behind one another, where queries lie side by side: what is better than what is known is found by
comparing whole lines of scores."""


@dataclass(frozen=True)
class Nearest:
    """What is nearest to each query, best first; where there are fewer rows than asked for, all of them."""

    offsets_QK: Offsets
    """Places of rows in the table's order."""
    scores_QK: Floats
    """Cosine similarities."""


def nearest_by_product(
    dataset: Any, query_QD: Floats, *, k: int, side: Side = "image", where: str | None = None
) -> Nearest:
    """The `k` rows nearest to every query (Q, D) by cosine, among those that fulfil the Lance filter `where`.

    Reads the vectors of one side once, whatever the number of queries; one block of them is in memory at a time.
    """
    offsets_QK = np.empty((len(query_QD), 0), np.int64)
    scores_QK = np.empty((len(query_QD), 0), np.float32)
    column = f"{side}_vector"
    reader = dataset.scanner(columns=[column, "_rowoffset"], filter=where, batch_size=ROWS_AT_ONCE)
    for block_BD, offsets_B in _blocks(reader, column, query_QD.shape[1]):
        found = [
            _merged(offsets_QK[some], scores_QK[some], offsets_B, block_BD @ query_QD[some].T, k)
            for some in (slice(at, at + QUERIES_AT_ONCE) for at in range(0, len(query_QD), QUERIES_AT_ONCE))
        ]
        if found:
            offsets_QK, scores_QK = (np.concatenate(each) for each in zip(*found, strict=True))
    order_QK = np.argsort(-scores_QK, axis=1, kind="stable")
    return Nearest(np.take_along_axis(offsets_QK, order_QK, 1), np.take_along_axis(scores_QK, order_QK, 1))


def _blocks(reader: Any, column: str, width: int) -> Iterator[tuple[Floats, Offsets]]:
    """Vectors with their places. The first are few: of them all scores are sorted, of later ones those that better
    them."""
    first = ROWS_AT_FIRST
    for batch in reader.to_batches():
        block_BD = _matrix(batch[column], width)
        offsets_B = batch["_rowoffset"].to_numpy(zero_copy_only=False).astype(np.int64)
        for part in (slice(0, first), slice(first, None)) if first else (slice(None),):
            if len(offsets_B[part]):
                yield block_BD[part], offsets_B[part]
        first = 0


def _merged(
    offsets_QK: Offsets, scores_QK: Floats, offsets_B: Offsets, scores_BQ: Floats, k: int
) -> tuple[Offsets, Floats]:
    """The `k` best of those known and those of a block, in no order."""
    if scores_QK.shape[1] == k:
        # Most blocks hold little that is better than what is known: only that is looked at.
        row_M, query_M = _better(scores_BQ, scores_QK.min(axis=1))
        most = int(np.bincount(query_M).max(initial=0))
        if most < len(scores_BQ) // 8:
            return _with_few(offsets_QK, scores_QK, query_M, offsets_B[row_M], scores_BQ[row_M, query_M])
    scores_QB = np.ascontiguousarray(scores_BQ.T)
    if scores_QB.shape[1] > k:
        best_QK = _largest(scores_QB, k)
        scores_QB, offsets_QB = np.take_along_axis(scores_QB, best_QK, 1), offsets_B[best_QK]
    else:
        offsets_QB = np.broadcast_to(offsets_B, scores_QB.shape)
    both_QM = np.concatenate([scores_QK, scores_QB], axis=1)
    places_QM = np.concatenate([offsets_QK, offsets_QB], axis=1)
    if both_QM.shape[1] <= k:
        return places_QM, both_QM
    best_QK = _best_of(both_QM, k)
    return np.take_along_axis(places_QM, best_QK, 1), np.take_along_axis(both_QM, best_QK, 1)


def _best_of(scores_QN: Floats, k: int) -> Offsets:
    """Columns of the `k` largest scores of each row, (Q, K), in no order."""
    return np.argpartition(scores_QN, -k, axis=1)[:, -k:]


def _largest(scores_QN: Floats, k: int) -> Offsets:
    """The same, where of many columns only those of the best groups need be looked at."""
    groups = scores_QN.shape[1] // GROUP
    if groups < 2 * k:
        return _best_of(scores_QN, k)
    grouped_QGS = scores_QN[:, : groups * GROUP].reshape(len(scores_QN), groups, GROUP)
    group_QK = _best_of(grouped_QGS.max(axis=2), k)
    column_QM = (group_QK[:, :, None] * GROUP + np.arange(GROUP)).reshape(len(scores_QN), -1)
    rest = np.broadcast_to(np.arange(groups * GROUP, scores_QN.shape[1]), (len(scores_QN), scores_QN.shape[1] % GROUP))
    column_QM = np.concatenate([column_QM, rest], axis=1)
    best_QK = _best_of(np.take_along_axis(scores_QN, column_QM, 1), k)
    return np.take_along_axis(column_QM, best_QK, 1)


def _better(scores_BQ: Floats, floor_Q: Floats) -> tuple[Offsets, Offsets]:
    """Rows and queries of the scores above the floor of their query, query by query."""
    runs = len(scores_BQ) // RUN
    grouped_GSQ = scores_BQ[: runs * RUN].reshape(runs, RUN, len(floor_Q))
    group_M, query_M = np.nonzero(grouped_GSQ.max(axis=1) > floor_Q)
    at_H, inside_H = np.nonzero(grouped_GSQ[group_M, :, query_M] > floor_Q[query_M, None])
    row_T, query_T = np.nonzero(scores_BQ[runs * RUN :] > floor_Q)
    rows = np.concatenate([group_M[at_H] * RUN + inside_H, runs * RUN + row_T])
    queries = np.concatenate([query_M[at_H], query_T])
    order = np.argsort(queries, kind="stable")
    return rows[order], queries[order]


def _with_few(
    offsets_QK: Offsets, scores_QK: Floats, query_M: Offsets, offset_M: Offsets, score_M: Floats
) -> tuple[Offsets, Floats]:
    """The same where few are better, given query by query."""
    if not len(query_M):
        return offsets_QK, scores_QK
    count, k = offsets_QK.shape
    place_M = k + np.arange(len(query_M)) - np.searchsorted(query_M, query_M)
    width = int(place_M.max()) + 1
    all_QN = np.full((count, width), -np.inf, np.float32)
    places_QN = np.zeros((count, width), np.int64)
    all_QN[:, :k], places_QN[:, :k] = scores_QK, offsets_QK
    all_QN[query_M, place_M], places_QN[query_M, place_M] = score_M, offset_M
    best_QK = _best_of(all_QN, k)
    return np.take_along_axis(places_QN, best_QK, 1), np.take_along_axis(all_QN, best_QK, 1)


def _matrix(vectors: pa.Array, width: int) -> Floats:
    flat: Floats = vectors.flatten().to_numpy(zero_copy_only=False)
    return flat.reshape(-1, width)
