"""Decides whether tonight's challenger may replace the champion."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from pydantic import BaseModel, Field, field_validator

from models.bootstrap import mean_intervals
from models.metrics import DIRECTIONS, RetrievalMetrics


class GateConfig(BaseModel, frozen=True, extra="forbid", use_attribute_docstrings=True):
    """What a challenger must reach to be released."""

    min: dict[str, float] = {}
    """Lowest acceptable value by metric, such as `text_to_image_recall@10: 0.2`; not of a median rank, where lower is
    better."""
    max_regression: float = Field(default=0.01, ge=0, le=1)
    """How far a headline metric may fall below the champion's."""
    confidence: float = Field(default=0.95, gt=0, lt=1)
    """Level of the reported interval of each difference (paired bootstrap over queries)."""
    approval: Literal["none"] = "none"
    """Whether a person has to agree."""
    seed: int = Field(default=0, ge=0)
    """Of the bootstrap."""

    @field_validator("min")
    @classmethod
    def _higher_is_better(cls, floors: dict[str, float]) -> dict[str, float]:
        for metric in floors:
            if metric.partition("/")[0].endswith("_median_rank"):
                raise ValueError(
                    f"{metric}: lower is better, so a floor would hold the good models; set one for a recall@k, "
                    "map@r or ndcg@10 instead"
                )
        return floors


@dataclass(frozen=True)
class Comparison:
    """One headline metric of both models on the same queries."""

    metric: str
    champion: float
    challenger: float
    difference: float
    low: float
    """Lower end of the difference's interval at `GateConfig.confidence`."""
    high: float


@dataclass(frozen=True)
class Verdict:
    """The decision, with a sentence for every reason against the challenger."""

    passed: bool
    reasons: tuple[str, ...]
    comparisons: tuple[Comparison, ...]
    """Empty without a champion."""


def decide(challenger: RetrievalMetrics, champion: RetrievalMetrics | None, config: GateConfig) -> Verdict:
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
    return Verdict(not reasons, tuple(reasons), comparisons)


def _compare(challenger: RetrievalMetrics, champion: RetrievalMetrics, config: GateConfig) -> tuple[Comparison, ...]:
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
            Comparison(
                metric=f"{direction}_recall@{k}",
                champion=float(old_Q.mean()),
                challenger=float(new_Q.mean()),
                difference=float(difference_Q.mean()),
                low=float(low),
                high=float(high),
            )
        )
    return tuple(comparisons)
