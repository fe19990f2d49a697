"""Decides whether tonight's challenger may replace the champion."""

from dataclasses import dataclass

import numpy as np

from pairloom.models.evaluation.bootstrap import mean_intervals
from pairloom.models.evaluation.config import DIRECTIONS, GateConfig
from pairloom.models.evaluation.metrics import RetrievalMetrics


@dataclass(frozen=True)
class Difference:
    """One headline metric of both models on the same queries."""

    metric: str
    champion: float
    challenger: float
    difference: float
    low: float
    """Lower end of the difference's interval at `GateConfig.confidence`."""
    high: float


@dataclass(frozen=True)
class Decision:
    """The decision, with a sentence for every reason against the challenger."""

    passed: bool
    reasons: tuple[str, ...]
    comparisons: tuple[Difference, ...]
    """Empty without a champion."""


def gate(challenger: RetrievalMetrics, champion: RetrievalMetrics | None, config: GateConfig) -> Decision:
    """Held by any metric under its floor, or any headline metric that falls by more than `max_regression`.

    The headline metrics are recall at 10 both ways, or at the largest k there is. ValueError for a floor on a metric
    that isn't measured, and where the two models weren't asked the same queries.
    """
    recalls = challenger.as_dict()
    unknown = sorted(set(config.min) - set(recalls))
    if unknown:
        raise ValueError(f"gate.min: {', '.join(unknown)} isn't measured; measured are {', '.join(sorted(recalls))}")
    reasons = [
        f"{metric} is {recalls[metric]:.4f}, below its floor of {floor:.4f}"
        for metric, floor in config.min.items()
        if recalls[metric] < floor
    ]
    comparisons = () if champion is None else _compare(challenger, champion, config)
    reasons += [
        f"{c.metric} fell by {-c.difference:.4f} (from {c.champion:.4f} to {c.challenger:.4f}), more than "
        f"max_regression of {config.max_regression:.4f}"
        for c in comparisons
        if c.difference < -config.max_regression
    ]
    return Decision(not reasons, tuple(reasons), comparisons)


def _compare(challenger: RetrievalMetrics, champion: RetrievalMetrics, config: GateConfig) -> tuple[Difference, ...]:
    same = (challenger.text_queries, challenger.image_queries) == (champion.text_queries, champion.image_queries)
    if not same:
        raise ValueError("champion and challenger were evaluated on different queries; evaluate both on the same items")
    k = 10 if 10 in challenger.k else max(challenger.k)
    comparisons = []
    for direction in DIRECTIONS:
        new_Q, old_Q = challenger.recall(direction, k), champion.recall(direction, k)
        difference_Q = new_Q - old_Q
        ((low, high),) = mean_intervals(
            difference_Q[:, None],
            np.ones((len(difference_Q), 1), bool),
            confidence=config.confidence,
            seed=config.seed,
        )
        comparisons.append(
            Difference(
                metric=f"{direction}_recall@{k}",
                champion=float(old_Q.mean()),
                challenger=float(new_Q.mean()),
                difference=float(difference_Q.mean()),
                low=float(low),
                high=float(high),
            )
        )
    return tuple(comparisons)
