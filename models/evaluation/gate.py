"""Decides whether tonight's challenger may replace the champion."""

# Q = queries

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from pairloom.models.arrays import Values
from pairloom.models.evaluation.bootstrap import mean_intervals
from pairloom.models.evaluation.config import DIRECTIONS, GateConfig
from pairloom.models.evaluation.metrics import RetrievalMetrics

TEXTBOOK = "textbook features"
"""What the floor is in words."""


@dataclass(frozen=True)
class Difference:
    """One headline metric of the challenger and of another model on the same queries."""

    metric: str
    rival: str
    """Whose the other model is, in words."""
    before: float
    """The other model's."""
    challenger: float
    difference: float
    low: float
    """Lower end of the difference's interval; those of all comparisons hold at once at `GateConfig.confidence`."""
    high: float
    queries: int


@dataclass(frozen=True)
class Decision:
    """The decision, with a sentence for every reason against the challenger."""

    passed: bool
    reasons: tuple[str, ...]
    comparisons: tuple[Difference, ...]
    """Empty without a rival."""
    unsure: tuple[str, ...] = ()
    """A sentence for everything that the queries are too few to tell; `GateConfig.when_unsure` decides."""
    warnings: tuple[str, ...] = ()
    """A sentence for what speaks against the challenger and holds it by no rule."""


def gate(
    challenger: RetrievalMetrics,
    rivals: Mapping[str, RetrievalMetrics],
    config: GateConfig,
    floor: RetrievalMetrics | None = None,
) -> Decision:
    """Held by any metric under its minimum or without a measure, and by any headline metric that fell too far.

    The headline metrics are recall at 10 both ways, or at the largest k there is. `rivals` are the models to compare
    with, by what they are in words; a first model has none, and must beat chance. `floor` is what textbook features
    reach: `config.floor` decides. Raises ValueError where two weren't asked the same queries, and for a minimum of what
    is no metric.
    """
    reasons, unsure = below_floors(challenger.as_dict(), config), []
    warnings = below_textbook(challenger, floor, config) if floor else []
    if config.floor == "hold":
        reasons, warnings = reasons + warnings, []
    comparisons = _compare(challenger, rivals, config) if rivals else ()
    for each in comparisons:
        if _fell(each, config):
            reasons.append(_fallen(each, config))
        elif each.low < -config.max_regression:
            unsure.append(_too_few(each, config))
    if not rivals and config.first == "chance":
        if _chance_is_told(challenger, config):
            reasons += _no_better_than_chance(challenger, config)
        else:
            images = len(challenger.image_queries)
            unsure.append(f"{images} validation images are too few to tell the model from an order by chance")
    return _decided(reasons, comparisons, unsure, config, warnings)


def gate_unmeasured(config: GateConfig, *, first: bool) -> Decision:
    """The same without validation items; `first` where there is no model to compare with either."""
    free = first and config.first == "none"
    return _decided(
        below_floors({}, config), (), [] if free else ["there are no validation items to measure on"], config
    )


def _decided(
    reasons: list[str],
    comparisons: tuple[Difference, ...],
    unsure: list[str],
    config: GateConfig,
    warnings: Sequence[str] = (),
) -> Decision:
    against = (*reasons, *(unsure if config.when_unsure == "hold" else ()))
    return Decision(not against, against, comparisons, tuple(unsure), tuple(warnings))


def below_textbook(challenger: RetrievalMetrics, floor: RetrievalMetrics, config: GateConfig) -> list[str]:
    """A sentence for every headline metric that is below what textbook features reach, and not by chance."""
    return [
        f"{each.metric} is {each.challenger:.4f}, below the {each.before:.4f} that textbook features reach without "
        f"training (difference {each.difference:+.4f}, interval {each.low:+.4f} to {each.high:+.4f})"
        for each in _compare(challenger, {TEXTBOOK: floor}, config)
        if each.difference < 0 and each.high < 0
    ]


def below_floors(metrics: Mapping[str, float], config: GateConfig) -> list[str]:
    """A sentence for every metric that is under its floor, and for every floor whose metric isn't measured.

    ValueError for a floor on what is no metric, whatever the validation items are.
    """
    known = ", ".join(sorted(name for name in metrics if "/" not in name)) or "none, without validation items"
    if unknown := [metric for metric in config.min if _is_no_metric(metric.partition("/")[0], metrics)]:
        raise ValueError(f"gate.min: {', '.join(unknown)} isn't measured; measured are {known}")
    reasons = []
    for metric, floor in config.min.items():
        if metric not in metrics:
            reasons.append(f"{metric} can't be held against its floor of {floor:.4f}: measured are {known}")
        elif not metrics[metric] >= floor:
            reasons.append(f"{metric} is {metrics[metric]:.4f}, below its floor of {floor:.4f}")
    return reasons


def _is_no_metric(name: str, metrics: Mapping[str, float]) -> bool:
    if name in metrics or name.startswith("probe_"):
        return False
    direction = next((each for each in (*DIRECTIONS, "image_to_image") if name.startswith(f"{each}_")), None)
    # Of a direction that was asked, all metrics are known.
    return direction is None or any(each.startswith(f"{direction}_") for each in metrics)


def _compare(
    challenger: RetrievalMetrics, rivals: Mapping[str, RetrievalMetrics], config: GateConfig
) -> tuple[Difference, ...]:
    # Bonferroni: an equal challenger is not held the sooner for being compared more often.
    confidence = 1 - (1 - config.confidence) / (len(DIRECTIONS) * len(rivals))
    comparisons = []
    for rival, metrics in rivals.items():
        same = (challenger.text_queries, challenger.image_queries) == (metrics.text_queries, metrics.image_queries)
        if not same:
            raise ValueError(
                f"{rival} and the challenger were asked different queries; evaluate both on the same items"
            )
        for direction in DIRECTIONS:
            new_Q, old_Q = (each.recall(direction, challenger.headline_k) for each in (challenger, metrics))
            low, high = _interval(new_Q - old_Q, confidence, config.seed)
            comparisons.append(
                Difference(
                    metric=f"{direction}_recall@{challenger.headline_k}",
                    rival=rival,
                    before=float(old_Q.mean()),
                    challenger=float(new_Q.mean()),
                    difference=float((new_Q - old_Q).mean()),
                    low=low,
                    high=high,
                    queries=len(new_Q),
                )
            )
    return tuple(comparisons)


def _fell(found: Difference, config: GateConfig) -> bool:
    """Whether it fell by more than is allowed, and not by chance."""
    return found.difference < -config.max_regression and found.high < 0


def _fallen(found: Difference, config: GateConfig) -> str:
    return (
        f"{found.metric} fell by {-found.difference:.4f} below {found.rival}'s (from {found.before:.4f} to "
        f"{found.challenger:.4f}), more than max_regression of {config.max_regression:.4f}"
    )


def _too_few(found: Difference, config: GateConfig) -> str:
    return (
        f"{found.queries:,} queries are too few to tell whether {found.metric} is more than max_regression of "
        f"{config.max_regression:.4f} below {found.rival}'s (interval of the difference {found.low:+.4f} to "
        f"{found.high:+.4f})"
    )


def _chance_is_told(challenger: RetrievalMetrics, config: GateConfig) -> bool:
    """Whether at least a model that finds everything could be told from luck."""
    chance: float = challenger.chance(challenger.headline_k).prod()
    return chance < 1 - config.confidence


def _no_better_than_chance(challenger: RetrievalMetrics, config: GateConfig) -> list[str]:
    k = challenger.headline_k
    recall_Q, chance_Q = challenger.recall(DIRECTIONS[0], k), challenger.chance(k)
    low, _ = _interval(recall_Q - chance_Q, config.confidence, config.seed)
    chance = float(chance_Q.mean())
    said = (
        f"{DIRECTIONS[0]}_recall@{k} is {float(recall_Q.mean()):.4f} (at least {chance + low:.4f}), no better than the "
        f"{chance:.4f} of an order by chance: set gate.first to none to release such a model"
    )
    return [] if low > 0 else [said]


def _interval(difference_Q: Values, confidence: float, seed: int) -> tuple[float, float]:
    everything = np.ones((len(difference_Q), 1), bool)
    ((low, high),) = mean_intervals(difference_Q[:, None], everything, confidence=confidence, seed=seed)
    return float(low), float(high)
