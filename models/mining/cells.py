"""Questions over all pairs of very many vectors: who is nearly a copy, and who is like nobody, without all products.

Vectors are parted into cells, each around a centre; one is compared with all of its own cell and of those whose centres
are nearly as near. Products outside are never made, so that a pair may be missed. `likeness.py` makes all of them.
"""

# N = vectors, D = embedding, C = centres, R = rows of a block, M = pairs, K = neighbours, P = places in cells

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pairloom.models.arrays import Embeddings, Indices, Mask, Scores, Values
from pairloom.models.mining.likeness import PairLimitError

Places = npt.NDArray[np.integer]
Progress = Callable[[float], None]
"""Hears the share that is done, again and again, and may raise."""

BLOCK = 2048
"""Rows of a block of products."""
SAMPLED = 24
"""Vectors a centre that the centres are found by."""
ROUNDS = 3
EVERYWHERE = 4.0
"""A difference that no two cosines have."""
TRIED = 4096
"""Vectors that tell how far beyond the nearest centre the others are."""
PAIR_CELLS, NEIGHBOUR_CELLS = 8, 4
"""Cells that a vector is compared with, on average: those whose centres are nearest beside its own, in the order of how
much further they are, whosever they are."""
TOLERANCE = 1e-5
"""What a product may lack by the order of summation."""
CANDIDATES, MOST_CANDIDATES = 512, 4096
"""Vectors whose neighbours are found exactly: at once, and at all."""
MOST_NEIGHBOURS = 64


@dataclass(frozen=True)
class Cells:
    """Each vector in the cell of its nearest centre, and as a guest in some others."""

    own_P: Places
    """Vectors, cell by cell."""
    own_start_C: Places
    """Where each cell begins, and where the last one ends (C + 1,)."""
    guest_P: Places
    guest_start_C: Places

    @classmethod
    def around(cls, vector_ND: Embeddings, cells_each: int, progress: Progress) -> "Cells":
        """Cells for comparing each of N vectors with `cells_each` cells on average."""
        # Of so many, finding a vector's cells takes as many products as comparing it with all in them.
        count = min(len(vector_ND), max(1, int((cells_each * len(vector_ND)) ** 0.5)))
        centre_CD = _centres(vector_ND, count, part_of(progress, 0, 0.2))
        margin = _margin(vector_ND, centre_CD, cells_each)
        own_N = np.empty(len(vector_ND), np.int32)
        guests, hosts = [], []
        for rows in _blocks(len(vector_ND)):
            progress(0.2 + 0.8 * rows.stop / len(vector_ND))
            score_RC = vector_ND[rows] @ centre_CD.T
            own_R = score_RC.argmax(axis=1)
            own_N[rows] = own_R
            best_R = score_RC[np.arange(len(own_R)), own_R]
            score_RC[np.arange(len(own_R)), own_R] = -np.inf
            guest_R, host_R = np.divmod(np.flatnonzero(score_RC >= (best_R - margin)[:, None]), count)
            guests.append((guest_R + rows.start).astype(np.int32))
            hosts.append(host_R.astype(np.int32))
        own_P, own_start_C = _by_cell(own_N, count)
        host_P = np.concatenate(hosts)
        guest_order_P, guest_start_C = _by_cell(host_P, count)
        return cls(own_P, own_start_C, np.concatenate(guests)[guest_order_P], guest_start_C)

    def each(self, progress: Progress) -> Iterator[tuple[Places, Places]]:
        """Of each cell, the vectors whose nearest centre it has, and its guests."""
        count = len(self.own_start_C) - 1
        for cell in range(count):
            progress(cell / count)
            own = slice(*self.own_start_C[cell : cell + 2])
            guests = slice(*self.guest_start_C[cell : cell + 2])
            yield self.own_P[own], self.guest_P[guests]


def close_pairs(
    vector_ND: Embeddings, threshold: float, *, most: int, progress: Progress
) -> tuple[Indices, Indices, Scores]:
    """What `similar_pairs` finds, but for some of the pairs: of those close to `threshold`, the most.

    Scores are rounded to six digits, so that they don't depend on how the vectors are parted.
    """
    found, share = _Pairs(len(vector_ND), most), part_of(progress, 0.5, 0.95)
    for own_P, guest_P in Cells.around(vector_ND, PAIR_CELLS, part_of(progress, 0, 0.5)).each(share):
        own_PD = vector_ND[own_P]
        for rows in _blocks(len(own_P)):
            for columns in _blocks(len(own_P), start=rows.start):
                product_RR = own_PD[rows] @ own_PD[columns].T
                if rows == columns:
                    product_RR[np.tril_indices(len(product_RR))] = -np.inf
                found.add(own_P[rows], own_P[columns], product_RR >= threshold - TOLERANCE)
        for rows in _blocks(len(guest_P)):
            guest_RD = vector_ND[guest_P[rows]]
            for columns in _blocks(len(own_P)):
                product_RR = guest_RD @ own_PD[columns].T
                found.add(guest_P[rows], own_P[columns], product_RR >= threshold - TOLERANCE)
    first_M, second_M = found.pairs()
    score_M = np.empty(len(first_M), np.float64)
    for rows in _blocks(len(first_M)):
        progress(0.95 + 0.05 * rows.stop / len(first_M))
        one_RD, other_RD = vector_ND[first_M[rows]].astype(np.float64), vector_ND[second_M[rows]]
        score_M[rows] = np.einsum("rd,rd->r", one_RD, other_RD).round(6)
    close_M = score_M >= threshold
    first_M, second_M, score_M = first_M[close_M], second_M[close_M], score_M[close_M]
    order_M = np.lexsort((second_M, first_M, -score_M))
    return first_M[order_M], second_M[order_M], score_M[order_M].astype(np.float32)


def nearest_others(vector_ND: Embeddings, k: int, *, progress: Progress) -> tuple[Places, Scores]:
    """Of each vector the `k` others with the highest products among those that it is compared with, highest first, and
    these products, (N, K) each. What is missing where there are fewer is the vector itself, with a product of -1.

    Raises ValueError for more than `MOST_NEIGHBOURS`.
    """
    _refuse_many("neighbours", k, MOST_NEIGHBOURS, vector_ND)
    near_NK = np.repeat(np.arange(len(vector_ND), dtype=np.int32)[:, None], k, axis=1)
    best_NK = np.full((len(vector_ND), k), -1, np.float32)
    cells = Cells.around(vector_ND, NEIGHBOUR_CELLS, part_of(progress, 0, 0.6))
    for own_P, guest_P in cells.each(part_of(progress, 0.6, 0.98)):
        # Where a huge cell is looked at in part, some neighbours are missed, and nothing else is wrong.
        step = max(1, len(own_P) // BLOCK)
        there_P = own_P[::step]
        if not len(there_P):
            continue
        there_PD = vector_ND[there_P]
        for asked_P in (own_P, guest_P):
            for rows in _blocks(len(asked_P)):
                asked_R = asked_P[rows]
                product_RP = vector_ND[asked_R] @ there_PD.T
                if asked_P is own_P:
                    self_R = np.arange(-rows.start % step, len(asked_R), step)
                    product_RP[self_R, (rows.start + self_R) // step] = -1
                _take_better(near_NK, best_NK, asked_R, there_P, product_RP)
    for rows in _blocks(len(vector_ND)):
        order_RK = np.argsort(-best_NK[rows], axis=1, kind="stable")
        near_NK[rows] = np.take_along_axis(near_NK[rows], order_RK, axis=1)
        best_NK[rows] = np.take_along_axis(best_NK[rows], order_RK, axis=1)
    progress(1)
    return near_NK, best_NK


def loneliest(
    vector_ND: Embeddings, k: int, neighbours: int, *, progress: Progress, known_NK: Scores | None = None
) -> tuple[Indices, Scores, Mask]:
    """The `k` vectors with the least mean product with the `neighbours` others nearest to them, these means, and of
    each whether it is sure that no vector that isn't found has a lower one.

    Means over what cells hold, `known_NK` where `nearest_others` has found them before, are never too high, so that
    only the vectors with the lowest need be compared with all: the means given are those. Where `MOST_CANDIDATES` of
    them don't suffice, which takes vectors that are all about equally far from one another, it isn't sure.
    Raises ValueError for more than `MOST_CANDIDATES` of them, or `MOST_NEIGHBOURS`.
    """
    _refuse_many("k", k, MOST_CANDIDATES, vector_ND)
    if known_NK is None:
        _, known_NK = nearest_others(vector_ND, neighbours, progress=part_of(progress, 0, 0.6))
    least_N = known_NK.mean(axis=1)
    exact = part_of(progress, 0.6, 1)
    order_N = np.argsort(least_N, kind="stable")
    mean_P, bound = np.empty(0, np.float64), np.inf
    while len(mean_P) < min(MOST_CANDIDATES, len(vector_ND)):
        some = order_N[len(mean_P) : min(len(mean_P) + CANDIDATES, MOST_CANDIDATES)]
        exact(len(mean_P) / MOST_CANDIDATES)
        mean_P = np.concatenate([mean_P, _exact_means(vector_ND, some, neighbours, exact)])
        rest = order_N[len(mean_P) :]
        bound = float(least_N[rest[0]]) if len(rest) else np.inf
        if len(mean_P) >= k and np.partition(mean_P, k - 1)[k - 1] <= bound:
            break
    found_P = order_N[: len(mean_P)]
    best_K = np.lexsort((found_P, mean_P))[:k]
    return found_P[best_K], mean_P[best_K].astype(np.float32), mean_P[best_K] <= bound


def _take_better(near_NK: Places, best_NK: Scores, asked_R: Places, there_P: Places, product_RP: Scores) -> None:
    """Take what is better than what was found before for some vectors."""
    k = best_NK.shape[1]
    better_R = product_RP.max(axis=1) > best_NK[asked_R].min(axis=1)
    asked_R, product_RP = asked_R[better_R], product_RP[better_R]
    if not len(asked_R):
        return
    place_RK = np.argpartition(product_RP, -k, axis=1)[:, -k:] if product_RP.shape[1] > k else None
    product_RK = product_RP if place_RK is None else np.take_along_axis(product_RP, place_RK, axis=1)
    there_RK = np.broadcast_to(there_P, product_RP.shape) if place_RK is None else there_P[place_RK]
    both = np.concatenate([best_NK[asked_R], product_RK], axis=1)
    places = np.concatenate([near_NK[asked_R], there_RK], axis=1)
    kept_RK = np.argpartition(both, -k, axis=1)[:, -k:]
    best_NK[asked_R] = np.take_along_axis(both, kept_RK, axis=1)
    near_NK[asked_R] = np.take_along_axis(places, kept_RK, axis=1)


def _refuse_many(name: str, value: int, most: int, vector_ND: Embeddings) -> None:
    if value > most:
        raise ValueError(f"{name} is {value}, must be at most {most:,} among {len(vector_ND):,} items")


def _exact_means(vector_ND: Embeddings, some: Places, k: int, progress: Progress) -> Values:
    """The mean product of some vectors with the `k` others nearest to each, among all (S,)."""
    k = min(k, len(vector_ND) - 1)
    some_SD, best_SK = vector_ND[some], np.full((len(some), k), -np.inf, np.float32)
    place_N = np.full(len(vector_ND), -1, np.int32)
    place_N[some] = np.arange(len(some))
    for rows in _blocks(len(vector_ND)):
        progress(0)
        product_SR = some_SD @ vector_ND[rows].T
        own_R = np.flatnonzero(place_N[rows] >= 0)
        product_SR[place_N[rows][own_R], own_R] = -np.inf
        better_S = product_SR.max(axis=1) > best_SK.min(axis=1)
        both = np.concatenate([best_SK[better_S], product_SR[better_S]], axis=1)
        best_SK[better_S] = np.partition(both, -k, axis=1)[:, -k:]
    mean_S: Values = best_SK.mean(axis=1, dtype=np.float64).round(6)
    return mean_S


class _Pairs:
    """Pairs found so far, each once, the first index below the second."""

    def __init__(self, count: int, most: int) -> None:
        self._count, self._most = count, most
        self._keys: list[Indices] = []
        self._held = 0

    def add(self, row_R: Places, column_R: Places, close_RR: Mask) -> None:
        """Take in the pairs of rows and columns that are close. Raises PairLimitError where there are too many."""
        at_R, other_R = np.divmod(np.flatnonzero(close_RR), close_RR.shape[1])
        if not len(at_R):
            return
        one, other = row_R[at_R].astype(np.int64), column_R[other_R].astype(np.int64)
        self._keys.append(np.minimum(one, other) * self._count + np.maximum(one, other))
        self._held += len(one)
        if self._held > 2 * self._most:
            self.pairs()
            if self._held > self._most:
                raise PairLimitError(f"more than {self._most:,} pairs are that similar")

    def pairs(self) -> tuple[Indices, Indices]:
        """Both indices of each pair."""
        keys = np.unique(np.concatenate(self._keys)) if self._keys else np.empty(0, np.int64)
        self._keys, self._held = [keys], len(keys)
        first_M, second_M = np.divmod(keys, self._count)
        return first_M, second_M


def _centres(vector_ND: Embeddings, count: int, progress: Progress) -> Embeddings:
    """Centres of length 1 (C, D), by a few rounds of spherical k-means over a seeded sample."""
    random = np.random.default_rng(0)
    sample = random.choice(len(vector_ND), min(len(vector_ND), SAMPLED * count), replace=False)
    sample_SD = vector_ND[np.sort(sample)]
    centre_CD = vector_ND[np.sort(sample[:count])]
    for turn in range(ROUNDS):
        own_S = np.empty(len(sample_SD), np.int32)
        for rows in _blocks(len(sample_SD)):
            progress((turn + rows.stop / len(sample_SD)) / ROUNDS)
            own_S[rows] = (sample_SD[rows] @ centre_CD.T).argmax(axis=1)
        own_P, start_C = _by_cell(own_S, count)
        some_C = np.flatnonzero(np.diff(start_C))
        sum_CD = np.add.reduceat(sample_SD[own_P], start_C[some_C], axis=0)
        centre_CD[some_C] = sum_CD / np.maximum(np.linalg.norm(sum_CD, axis=1, keepdims=True), 1e-12)
    return centre_CD


def _margin(vector_ND: Embeddings, centre_CD: Embeddings, cells_each: int) -> float:
    """How much further than the nearest a centre may be, that vectors are in so many cells on average."""
    if cells_each >= len(centre_CD):
        return EVERYWHERE
    tried = np.random.default_rng(1).choice(len(vector_ND), min(len(vector_ND), TRIED), replace=False)
    score_TC = vector_ND[np.sort(tried)] @ centre_CD.T
    behind_TC = score_TC.max(axis=1, keepdims=True) - score_TC
    return float(np.partition(behind_TC, cells_each * len(tried) - 1, axis=None)[cells_each * len(tried) - 1])


def _by_cell(cell_P: Places, count: int) -> tuple[Places, Places]:
    """Places in the order of their cells, and where each of so many cells begins."""
    order_P = np.argsort(cell_P, kind="stable").astype(np.int32)
    return order_P, np.searchsorted(cell_P[order_P], np.arange(count + 1))


def _blocks(count: int, *, start: int = 0) -> Iterator[slice]:
    for at in range(start, count, BLOCK):
        yield slice(at, min(at + BLOCK, count))


def part_of(progress: Progress, start: float, end: float) -> Progress:
    """Hears of a part of the work."""
    return lambda done: progress(start + (end - start) * done)
