"""The places of positives among the candidates of a query, and what they are worth.

Scores that are alike are ties, and ties count against the model: a negative stands before a positive unless it scores
lower by more than a tolerance, and every metric is the mean of what it is at the tolerances from `TIE` to twice that.

- Against the model, because whatever gives everything the same embedding has learned nothing; the expected value over
  the orders of ties (McSherry and Najork 2008) would give it the marks of chance. Nor need ties be groups, which they
  aren't, since being alike isn't handed on: every positive looks at its own distance from every negative.
- A single tolerance would be an edge of its own, at which the last bit decides again. The mean has none: where no
  score moves by more than e, no recall@k, map@r or ndcg@10 of any query moves by more than 2 e / `TIE`, however many
  candidates there are, and none moves at all where no gap between a positive and a negative is from `TIE` - 2 e to
  2 `TIE` + 2 e. Copies, and everything that is clearly apart, are of the latter kind.
- Scores are exact: embeddings are rounded to a grid on which float64 holds every sum of products, in whatever order it
  is made (for norms up to 4). So the same embeddings give the same metrics to the last bit, in any order of items and
  texts, with any number of threads and on any processor, and the same intervals.
"""

# N = items, D = embedding, Q = queries, C = candidates, P = (query, positive) pairs, K = best, R = values of k,
# E = (pair, negative) that the tolerances don't agree on

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from scipy import sparse  # type: ignore[import-untyped]  # SciPy publishes no type information

from pairloom.models.arrays import Indices, Values
from pairloom.models.evaluation.config import NDCG_DEPTH
from pairloom.models.evaluation.similarity import TIE

BLOCK = 1 << 23  # scores held at once

GAINS = np.array([*(1 / math.log2(place + 2) for place in range(NDCG_DEPTH)), 0.0])
"""What a positive at each place is worth to ndcg@10, the last for all beyond."""


@dataclass(frozen=True)
class Answers:
    """How well the queries of one direction were answered."""

    queries_Q: Indices
    """Which texts or images were asked: those that have a positive among the candidates, in the order of their names,
    so that resampling them doesn't depend on the order of items."""
    positives_Q: Indices
    """How many of the candidates are positives of each query."""
    rank_Q: Values
    """Of the best positive: the number of negatives before it, 0 = first; between whole numbers where ties are."""
    recall_QR: Values
    """For each of `RetrievalMetrics.k`: is the best positive among so many? 1 or 0, or between them."""
    average_precision_Q: Values
    """At R, the number of the query's positives (Musgrave et al. 2020, A Metric Learning Reality Check)."""
    ndcg_Q: Values
    """At 10, every positive of gain 1 (Järvelin and Kekäläinen 2002)."""


def answered(
    query_QD: Values,
    candidate_CD: Values,
    order_Q: Indices,
    known: Callable[[Indices], sparse.csr_matrix],
    k: tuple[int, ...],
) -> Answers:
    """The queries that have a positive, in the order `order_Q`; embeddings are `on_grid`.

    `known` gives for some queries a sparse (rows, C): positive where above 0, no candidate where a stored 0.
    """
    step = min(max(1, BLOCK // len(candidate_CD)), len(query_QD))
    space_QC = np.empty((step, len(candidate_CD)))
    blocks = []
    for start in range(0, len(query_QD), step):
        rows = order_Q[start : start + step]
        found = known(rows)
        asked = np.flatnonzero((found > 0).getnnz(axis=1))
        if not len(asked):
            continue
        rows, found = rows[asked], found[asked].tocoo()
        score_QC = np.matmul(query_QD[rows], candidate_CD.T, out=space_QC[: len(rows)])
        positive = found.data > 0
        row_P, score_P = found.row[positive].astype(np.int64), score_QC[found.row, found.col][positive]
        score_QC[found.row, found.col] = -np.inf
        blocks.append(_judge(score_QC, row_P, score_P, rows, k))
    if not blocks:
        none, no_values = np.array([], np.int64), np.array([])
        return Answers(none, none, no_values, np.empty((0, len(k))), no_values, no_values)
    return Answers(
        np.concatenate([each.queries_Q for each in blocks]),
        np.concatenate([each.positives_Q for each in blocks]),
        np.concatenate([each.rank_Q for each in blocks]),
        np.concatenate([each.recall_QR for each in blocks]),
        np.concatenate([each.average_precision_Q for each in blocks]),
        np.concatenate([each.ndcg_Q for each in blocks]),
    )


def _judge(negative_QC: Values, row_P: Indices, score_P: Values, queries_Q: Indices, k: tuple[int, ...]) -> Answers:
    """Of the queries of one block; P are their positives, one or more each, in the row of its query."""
    order = np.lexsort((-score_P, row_P))
    row_P, score_P = row_P[order], score_P[order]
    size_Q = np.bincount(row_P)
    first_Q = size_Q.cumsum() - size_Q
    nth_P, size_P, best_Q = np.arange(len(row_P)) - first_Q[row_P], size_Q[row_P], score_P[first_Q]

    # Beyond this depth a place matters to no metric but the rank, so only the best negatives need sorting.
    depth = min(max(NDCG_DEPTH, int(size_Q.max()), *k), negative_QC.shape[1])
    best_QK = torch.topk(torch.from_numpy(negative_QC), depth, dim=1).values.numpy()
    recall_QR = np.stack(
        [_apart(best_Q - best_QK[:, each - 1]) if each <= depth else np.ones(len(best_Q)) for each in k], axis=1
    )
    before_QC = negative_QC >= (best_Q - TIE)[:, None]
    decided_E = np.flatnonzero(before_QC ^ (negative_QC >= (best_Q - 2 * TIE)[:, None]))
    query_E = decided_E // negative_QC.shape[1]
    share_E = 1 - _apart(best_Q[query_E] - negative_QC.ravel()[decided_E])
    rank_Q = before_QC.sum(axis=1) + np.bincount(query_E, share_E, minlength=len(best_Q))

    def precision(pairs: Indices, places: Indices) -> Values:
        return np.where(places < size_P[pairs], (nth_P[pairs] + 1) / (places + 1), 0.0)

    def gain(_: Indices, places: Indices) -> Values:
        return GAINS[np.minimum(places, NDCG_DEPTH)]

    # Negatives before each positive at the least and at the largest tolerance.
    least_P, most_P = np.empty(len(row_P), np.int64), np.empty(len(row_P), np.int64)
    for query, (first, size) in enumerate(zip(first_Q, size_Q, strict=True)):
        part = slice(first, first + size)
        ends = np.array([[TIE], [2 * TIE]]) - score_P[part]
        least_P[part], most_P[part] = np.searchsorted(-best_QK[query], ends, side="right")
    precision_P, gain_P = np.empty(len(row_P)), np.empty(len(row_P))
    step = max(1, BLOCK // (8 * depth))  # there are about eight arrays of E
    for start in range(0, len(row_P), step):
        pairs = np.arange(start, min(start + step, len(row_P)))
        # A positive comes before the n-th best negative at the tolerances that are less than their distance.
        width = most_P[pairs] - least_P[pairs]
        pair_E = np.repeat(pairs, width)
        before_E = np.arange(len(pair_E)) + np.repeat(most_P[pairs] - width.cumsum(), width)
        share_E = _apart(score_P[pair_E] - best_QK[row_P[pair_E], before_E])
        for value, mean_P in ((precision, precision_P), (gain, gain_P)):
            place_E = nth_P[pair_E] + before_E
            more_E = share_E * (value(pair_E, place_E) - value(pair_E, place_E + 1))
            mean_P[pairs] = value(pairs, nth_P[pairs] + most_P[pairs])
            mean_P[pairs] += np.bincount(pair_E - start, more_E, minlength=len(pairs))

    ideal = np.cumsum(GAINS)
    return Answers(
        queries_Q,
        size_Q,
        rank_Q,
        recall_QR,
        np.bincount(row_P, precision_P) / size_Q,
        np.bincount(row_P, gain_P) / ideal[np.minimum(size_Q, NDCG_DEPTH) - 1],
    )


def _apart(gap: Values) -> Values:
    """Share of the tolerances from `TIE` to twice that which are less than `gap`."""
    share = gap / TIE
    share -= 1
    return np.clip(share, 0, 1, out=share)
