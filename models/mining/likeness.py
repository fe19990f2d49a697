"""Exact questions over all pairs of vectors, by NumPy's matrix products: who is nearly a copy, and who is like nobody.

`neighbours.py` finds lists for a training, with torch, and leaves known positives out; this is asked of a release,
where copies are just what is wanted, and waits for no torch.
"""

# N = vectors, D = embedding, M = pairs found, K = neighbours, R = rows of a block, C = columns of a block

from collections.abc import Callable, Iterator

import numpy as np

from pairloom.models.arrays import Embeddings, Indices, Scores

BLOCK = 2048
"""Rows and columns of a block of products: 16 MB."""
ROWS = 256
"""Rows that are compared with all columns at once."""


class PairLimitError(ValueError):
    """There are more pairs than were asked for."""


def similar_pairs(
    vector_ND: Embeddings, threshold: float, *, most: int, check: Callable[[], None]
) -> tuple[Indices, Indices, Scores]:
    """All pairs with an inner product of at least `threshold`: (M,), (M,) and their products (M,), highest first.

    Each pair stands once, the first index below the second; equal products in the order of the indices. `check` is
    called between blocks and may raise. Raises PairLimitError for more than `most` pairs.
    """
    firsts, seconds, scores, count = [], [], [], 0
    for rows in _blocks(len(vector_ND)):
        for columns in _blocks(len(vector_ND), start=rows.start):
            check()
            product_RC = vector_ND[rows] @ vector_ND[columns].T
            if rows == columns:
                # Neither a vector with itself nor a pair twice.
                product_RC[np.tril_indices(len(product_RC))] = -np.inf
            row_P, column_P = np.divmod(np.flatnonzero(product_RC >= threshold), product_RC.shape[1])
            count += len(row_P)
            if count > most:
                raise PairLimitError(f"more than {most:,} pairs are that similar")
            firsts.append(row_P + rows.start)
            seconds.append(column_P + columns.start)
            scores.append(product_RC[row_P, column_P])
    if not count:
        return np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, np.float32)
    first_M, second_M, score_M = np.concatenate(firsts), np.concatenate(seconds), np.concatenate(scores)
    order_M = np.lexsort((second_M, first_M, -score_M))
    return first_M[order_M], second_M[order_M], score_M[order_M]


def neighbour_means(vector_ND: Embeddings, k: int, *, check: Callable[[], None]) -> Scores:
    """The mean inner product of each vector with the `k` others nearest to it (N,); with all others where these are
    fewer, NaN where there are none. `check` is called between blocks and may raise.
    """
    mean_N = np.full(len(vector_ND), np.nan, dtype=np.float32)
    kept = min(k, len(vector_ND) - 1)
    if kept < 1:
        return mean_N
    for rows in _blocks(len(vector_ND)):
        best_RK = np.full((rows.stop - rows.start, kept), -np.inf, dtype=np.float32)
        for columns in _blocks(len(vector_ND)):
            check()
            product_RC = vector_ND[rows] @ vector_ND[columns].T
            if rows == columns:
                np.fill_diagonal(product_RC, -np.inf)
            # Once a row has K, few of a block are better than its worst.
            better_R = product_RC.max(axis=1) > best_RK.min(axis=1)
            both = np.concatenate([best_RK[better_R], product_RC[better_R]], axis=1)
            best_RK[better_R] = np.partition(both, -kept, axis=1)[:, -kept:]
        mean_N[rows] = best_RK.mean(axis=1)
    return mean_N


def nearest_others(vector_ND: Embeddings, k: int, *, progress: Callable[[float], None]) -> tuple[Indices, Scores]:
    """Of each vector the `k` others with the highest inner products, highest first, and these: (N, K), K less than `k`
    where there are fewer others. `progress` hears the share that is done, and may raise.
    """
    kept = max(0, min(k, len(vector_ND) - 1))
    near_NK, best_NK = np.empty((len(vector_ND), kept), np.int64), np.empty((len(vector_ND), kept), np.float32)
    for start in range(0, len(vector_ND) if kept else 0, ROWS):
        progress(start / len(vector_ND))
        rows = slice(start, min(start + ROWS, len(vector_ND)))
        product_RN = vector_ND[rows] @ vector_ND.T
        np.fill_diagonal(product_RN[:, start:], -np.inf)
        near_RK = np.argpartition(product_RN, -kept, axis=1)[:, -kept:]
        best_RK = np.take_along_axis(product_RN, near_RK, axis=1)
        order_RK = np.lexsort((near_RK, -best_RK), axis=1)
        near_NK[rows] = np.take_along_axis(near_RK, order_RK, axis=1)
        best_NK[rows] = np.take_along_axis(best_RK, order_RK, axis=1)
    return near_NK, best_NK


def _blocks(count: int, *, start: int = 0) -> Iterator[slice]:
    for at in range(start, count, BLOCK):
        yield slice(at, min(at + BLOCK, count))
