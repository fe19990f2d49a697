"""The score below which nothing fits: what queries reach whose own concept is not there."""

# Q = queries, N = items, D = embedding

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from pairloom.models.arrays import Embeddings, Mask, Scores, Values
from pairloom.models.evaluation.grid import on_grid

UNITS = 1e6
"""A cut-off is a whole number of them to 1: scores are told apart no further."""


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
    queries: int
    true_finds: float
    """Share of the queries that have an item of their own concept at it or above."""
    false_finds: float
    """Share of the queries that have another item at it or above: found where their own concept is not there."""


def calibrated(query_QD: Embeddings, candidates: Iterable[Candidates], max_false_finds: float) -> Calibration | int:
    """The lowest cut-off with at most `max_false_finds`; where queries are too few to tell such a share, their number.

    Queries without an item of their own are left out.
    """
    exact_QD = on_grid(query_QD)
    own_Q, other_Q = np.full((2, len(query_QD)), -np.inf)
    for some in candidates:
        score_QN = exact_QD @ on_grid(some.image_ND).T
        if some.hubness_N is not None:
            score_QN = 2 * score_QN - some.hubness_N
        if some.out_QN is not None:
            score_QN[some.out_QN] = -np.inf
        own_Q = np.maximum(own_Q, np.where(some.own_QN, score_QN, -np.inf).max(axis=1, initial=-np.inf))
        other_Q = np.maximum(other_Q, np.where(some.own_QN, -np.inf, score_QN).max(axis=1, initial=-np.inf))
    asked_Q = np.isfinite(own_Q) & np.isfinite(other_Q)
    count = int(asked_Q.sum())
    if count * max_false_finds < 1:
        return count
    score = _above(other_Q[asked_Q], math.floor(count * max_false_finds))
    return Calibration(
        score=score,
        queries=count,
        true_finds=float((own_Q[asked_Q] >= score).mean()),
        false_finds=float((other_Q[asked_Q] >= score).mean()),
    )


def _above(scores: Values, most: int) -> float:
    """The least score, in whole units, that at most so many of `scores` reach."""
    highest = float(np.sort(scores)[::-1][most])
    return (math.floor(highest * UNITS) + 1) / UNITS
