"""The score below which nothing fits: what queries reach whose own concept is not there."""

# Q = queries, N = items, K = nearest items, D = embedding, M = rows that are weighed

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from pairloom.models.arrays import Embeddings, Mask, Scores, Values
from pairloom.models.evaluation.grid import on_grid
from pairloom.models.evaluation.hubness import corrected

UNITS = 1e6
"""A cut-off is a whole number of them to 1: scores are told apart no further."""
NEXT = 10
"""Items behind the nearest that a margin is taken to."""
SHRINKING = 3.0
"""How strongly the weights of score and margin are drawn to 0."""


@dataclass(frozen=True)
class Candidates:
    """Some of the items that all queries are asked about."""

    image_ND: Embeddings
    own_QN: Mask
    """Which of them are of a query's own concept."""
    out_QN: Mask | None = None
    """Which of them a query isn't asked about: its own picture."""
    hubness_N: Scores | None = None
    """Taken off their scores, where that is done."""


@dataclass(frozen=True)
class Calibration:
    """A cut-off and what was found of it."""

    score: float
    margin_weight: float
    """How much of a query's margin is added to its scores before they are compared."""
    queries: int
    true_finds: float
    """Share of the queries that have an item of their own concept at it or above."""
    false_finds: float
    """Share of the queries that have another item at it or above: found where their own concept is not there."""


@dataclass(frozen=True)
class Reached:
    """What queries reach, all of their items there and none of them."""

    own_Q: Values
    """The highest score of an item of their own concept; -inf where none is there."""
    other_Q: Values
    """The highest score of another."""
    margin_Q: Values
    margin_without_Q: Values
    """The margin with all items of their own left out."""
    right_Q: Mask
    """Whether one of their own is among the `NEXT` nearest."""

    def of(self, some_Q: Mask) -> "Reached":
        """That of some of the queries."""
        return Reached(*(each[some_Q] for each in vars(self).values()))


def margin(score_QK: Values) -> Values:
    """(Q,): the highest of scores less the mean of the next `NEXT`, or of as many as there are; 0 where none is."""
    best_QK = -np.sort(-score_QK, axis=1)[:, : NEXT + 1]
    known_QK = np.isfinite(best_QK)
    known_QK[:, :1] = False
    mean_Q = np.where(known_QK, best_QK, 0).sum(axis=1) / np.maximum(1, known_QK.sum(axis=1))
    margin_Q: Values = np.where(known_QK.any(axis=1), best_QK[:, 0] - mean_Q, 0.0)
    return margin_Q


def calibrated(
    query_QD: Embeddings,
    candidates: Iterable[Candidates],
    max_false_finds: float,
    *,
    learned_Q: Mask | None = None,
) -> Calibration | int:
    """The lowest cut-off that `max_false_finds` of further such queries reach; where these are too few, their number.

    `learned_Q` are queries that the model has learned from: the cut-off is not of them, but where there are some, they
    and the others say what a query's margin weighs beside its scores. A small margin speaks for many items of one
    concept, and a query's finds are then told from others by a lower cut-off; it is not used where fewer finds are true
    with it, nor where a large one spoke for them, which would call whatever follows a single good item good.
    Queries without an item of their own are left out.
    """
    reached = reach(query_QD, candidates)
    asked_Q = np.isfinite(reached.own_Q) & np.isfinite(reached.other_Q)
    learned_Q = np.zeros(len(query_QD), bool) if learned_Q is None else learned_Q
    held = reached.of(asked_Q & ~learned_Q)
    if len(held.own_Q) * max_false_finds < 1:
        return len(held.own_Q)
    return cut_off(held, reached.of(asked_Q & learned_Q), max_false_finds)


def cut_off(held: Reached, learned: Reached, max_false_finds: float) -> Calibration:
    """The same of what queries reach, of whom all have items of their own."""
    plain = _at(held, max_false_finds, 0.0)
    weight = weighed(held, learned) if len(learned.own_Q) else 0.0
    if not weight:
        return plain
    found = _at(held, max_false_finds, weight)
    return found if _finds(found, held, learned) >= _finds(plain, held, learned) else plain


def reach(query_QD: Embeddings, candidates: Iterable[Candidates]) -> Reached:
    """What queries reach among all candidates."""
    exact_QD = on_grid(query_QD)
    own_Q, other_Q, own_nearest_Q = np.full((3, len(query_QD)), -np.inf)
    near_QK, near_without_QK = np.full((2, len(query_QD), NEXT + 1), -np.inf)
    for some in candidates:
        cosine_QN = exact_QD @ on_grid(some.image_ND).T
        if some.out_QN is not None:
            cosine_QN[some.out_QN] = -np.inf
        without_QN = np.where(some.own_QN, -np.inf, cosine_QN)
        own_QN = np.where(some.own_QN, cosine_QN, -np.inf)
        own_nearest_Q = np.maximum(own_nearest_Q, own_QN.max(axis=1, initial=-np.inf))
        own_Q = np.maximum(own_Q, _told(own_QN, some.hubness_N).max(axis=1, initial=-np.inf))
        other_Q = np.maximum(other_Q, _told(without_QN, some.hubness_N).max(axis=1, initial=-np.inf))
        near_QK, near_without_QK = _nearest(near_QK, cosine_QN), _nearest(near_without_QK, without_QN)
    last_Q = np.sort(near_QK, axis=1)[:, 1]
    right_Q = np.isfinite(own_nearest_Q) & (own_nearest_Q >= last_Q)
    return Reached(own_Q, other_Q, margin(near_QK), margin(near_without_QK), right_Q)


def _told(cosine_QN: Values, hubness_N: Scores | None) -> Values:
    return cosine_QN if hubness_N is None else corrected(cosine_QN, hubness_N)


def weighed(*kinds: Reached) -> float:
    """What a margin weighs beside a score of weight 1, as a logistic regression tells queries that find their own from
    the same without it, each kind of queries counting alike; 0 where it isn't to be used."""
    from sklearn.linear_model import LogisticRegression

    groups = []
    for kind in kinds:
        there_MF = np.stack([np.maximum(kind.own_Q, kind.other_Q), kind.margin_Q], axis=1)[kind.right_Q]
        groups += [(there_MF, True), (np.stack([kind.other_Q, kind.margin_without_Q], axis=1), False)]
    row_MF = np.concatenate([rows for rows, _ in groups])
    answer_M = np.concatenate([np.full(len(rows), answer) for rows, answer in groups])
    if answer_M.all() or not answer_M.any():
        return 0.0
    count_M = np.concatenate([np.full(len(rows), 100 / max(1, len(rows))) for rows, _ in groups])
    spread_F = row_MF.std(axis=0) + 1e-9
    fit = LogisticRegression(C=1 / SHRINKING, max_iter=1_000).fit(row_MF / spread_F, answer_M, sample_weight=count_M)
    of_score, of_margin = fit.coef_[0] / spread_F
    return round(float(of_margin / of_score), 2) if of_score > 0 > of_margin else 0.0


def _at(held: Reached, max_false_finds: float, weight: float) -> Calibration:
    without_Q = held.other_Q + weight * held.margin_without_Q
    # Of one query more, drawn as these were, the chance to reach it is then no larger.
    score = _above(without_Q, max(0, math.floor((len(without_Q) + 1) * max_false_finds) - 1))
    return Calibration(
        score=score,
        margin_weight=weight,
        queries=len(without_Q),
        true_finds=_true(held, score, weight),
        false_finds=float((without_Q >= score).mean()),
    )


def _true(kind: Reached, score: float, weight: float) -> float:
    return float((kind.own_Q + weight * kind.margin_Q >= score).mean())


def _finds(found: Calibration, *kinds: Reached) -> float:
    return sum(_true(kind, found.score, found.margin_weight) for kind in kinds)


def _nearest(known_QK: Values, score_QN: Values) -> Values:
    """The highest of known and further scores, (Q, K), in no order."""
    kept = known_QK.shape[1]
    return np.partition(np.concatenate([known_QK, score_QN], axis=1), -kept, axis=1)[:, -kept:]


def _above(scores: Values, most: int) -> float:
    """The least score, in whole units, that at most so many of `scores` reach."""
    highest = float(np.sort(scores)[::-1][most])
    return (math.floor(highest * UNITS) + 1) / UNITS
