import numpy as np
import pytest

from pairloom.models.evaluation.config import DIRECTIONS, GateConfig
from pairloom.models.evaluation.gate import gate
from pairloom.models.evaluation.metrics import RetrievalMetrics
from pairloom.models.evaluation.ranking import Answers


def metrics(text_hits: int, image_hits: int, count: int = 100) -> RetrievalMetrics:
    names = tuple(str(number) for number in range(count))
    ranks = [np.where(np.arange(count) < hits, 0, 50) for hits in (text_hits, image_hits)]
    every_Q, share_Q = np.arange(count), np.zeros(count)
    answers = {
        direction: Answers(every_Q, rank_Q, np.stack([rank_Q < 1, rank_Q < 10], axis=1).astype(float), share_Q, share_Q)
        for direction, rank_Q in zip(DIRECTIONS, ranks, strict=True)
    }
    return RetrievalMetrics((1, 10), names, names, answers, {})


def test_a_first_model_passes_without_a_champion() -> None:
    verdict = gate(metrics(10, 10), None, GateConfig())
    assert (verdict.passed, verdict.reasons, verdict.comparisons) == (True, (), ())


def test_a_metric_below_its_floor_is_held() -> None:
    verdict = gate(metrics(30, 90), None, GateConfig(min={"text_to_image_recall@10": 0.5}))
    assert not verdict.passed
    assert "text_to_image_recall@10 is 0.3000" in verdict.reasons[0]


def test_a_regression_in_either_direction_is_held() -> None:
    config = GateConfig(max_regression=0.05)
    assert gate(metrics(76, 80), metrics(80, 80), config).passed
    verdict = gate(metrics(90, 70), metrics(80, 80), config)
    assert not verdict.passed
    assert verdict.reasons[0].startswith("image_to_text_recall@10 fell by 0.1000")


def test_interval_matches_resampling_the_queries() -> None:
    new, old = metrics(60, 50), metrics(50, 50)
    comparison = gate(new, old, GateConfig()).comparisons[0]
    random = np.random.default_rng(1)
    difference_Q = new.recall("text_to_image", 10) - old.recall("text_to_image", 10)
    means = [random.choice(difference_Q, len(difference_Q)).mean() for _ in range(4000)]
    assert (comparison.low, comparison.high) == pytest.approx(np.quantile(means, [0.025, 0.975]), abs=0.015)
    assert comparison == gate(new, old, GateConfig()).comparisons[0]


def test_an_unknown_metric_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"recall_at_10 isn't measured; measured are image_to_text_map@r,"):
        gate(metrics(1, 1), None, GateConfig(min={"recall_at_10": 0.5}))


def test_different_queries_are_refused() -> None:
    with pytest.raises(ValueError, match="different queries"):
        gate(metrics(1, 1), metrics(1, 1, count=99), GateConfig())
