import math
from statistics import NormalDist

import numpy as np
import pytest

from pairloom.models.evaluation.config import DIRECTIONS, GateConfig
from pairloom.models.evaluation.gate import Decision, gate, gate_unmeasured
from pairloom.models.evaluation.metrics import RetrievalMetrics, Slice
from pairloom.models.evaluation.ranking import Answers

HOLD = GateConfig(when_unsure="hold")


def metrics_of(
    text_Q: np.ndarray, image_Q: np.ndarray, positives: int = 1, *, images: int | None = None
) -> RetrievalMetrics:
    """Of models that find (1) or don't find (0) an answer to each query among the best ten."""
    answers = {}
    for direction, found_Q in zip(DIRECTIONS, (text_Q, image_Q), strict=True):
        count = len(found_Q)
        every_Q, share_Q, rank_Q = np.arange(count), np.zeros(count), np.where(found_Q > 0, 0.0, 50.0)
        recall_QR = np.stack([found_Q, found_Q], axis=1).astype(float)
        answers[direction] = Answers(every_Q, np.full(count, positives), rank_Q, recall_QR, share_Q, share_Q)
    texts = tuple(str(number) for number in range(len(text_Q)))
    named = tuple(str(number) for number in range(images or len(image_Q)))
    return RetrievalMetrics((1, 10), texts, named, answers, {})


def metrics(text_hits: int, image_hits: int, count: int = 100, positives: int = 1) -> RetrievalMetrics:
    return metrics_of(np.arange(count) < text_hits, np.arange(count) < image_hits, positives)


def beside(new: RetrievalMetrics, old: RetrievalMetrics, config: GateConfig | None = None) -> Decision:
    return gate(new, {"the champion": old}, config or GateConfig())


def test_a_first_model_that_beats_chance_passes_without_a_champion() -> None:
    verdict = gate(metrics(30, 10), {}, GateConfig())
    assert (verdict.passed, verdict.reasons, verdict.comparisons, verdict.unsure) == (True, (), (), ())


def test_a_first_model_no_better_than_chance_is_held_by_the_low_end_of_its_interval() -> None:
    held = gate(metrics(14, 90), {}, GateConfig())
    assert not held.passed
    assert held.reasons[0].startswith("text_to_image_recall@10 is 0.1400 (at least 0.0")
    assert "no better than the 0.1000 of an order by chance" in held.reasons[0]
    assert gate(metrics(14, 90), {}, GateConfig(first="none")).passed


def test_chance_knows_how_many_positives_a_text_has() -> None:
    # Of 100 images five are right: one of them is among ten by chance for 41.6 % of the texts.
    assert metrics(0, 0, positives=5).chance(10) == pytest.approx(
        np.full(100, 1 - 90 * 89 * 88 * 87 * 86 / (100 * 99 * 98 * 97 * 96))
    )
    assert gate(metrics(30, 0), {}, GateConfig()).passed
    assert "no better than the 0.4162 of" in gate(metrics(30, 0, positives=5), {}, GateConfig()).reasons[0]


@pytest.mark.parametrize("count", [1, 5, 10, 12])
def test_a_collection_too_small_to_tell_from_chance_says_so_and_releases_its_first_model(count: int) -> None:
    perfect = metrics(count, count, count=count)
    said = gate(perfect, {}, GateConfig())
    assert said.passed
    assert said.unsure == (f"{count} validation images are too few to tell the model from an order by chance",)
    assert not gate(perfect, {}, HOLD).passed
    assert gate(perfect, {}, GateConfig(first="none")).unsure == ()
    assert gate(metrics(14, 14, count=14), {}, HOLD).passed


def test_a_metric_below_its_floor_is_held() -> None:
    verdict = gate(metrics(30, 90), {}, GateConfig(min={"text_to_image_recall@10": 0.5}))
    assert not verdict.passed
    assert "text_to_image_recall@10 is 0.3000" in verdict.reasons[0]


def test_a_slice_below_its_floor_is_held() -> None:
    few = np.arange(100) >= 90
    measured = metrics_of(~few, ~few)
    sliced = RetrievalMetrics(
        measured.k, measured.text_queries, measured.image_queries, measured.answers, {"colour=grey": Slice(few, few)}
    )
    floors = {"text_to_image_recall@10": 0.8, "text_to_image_recall@10/colour=grey": 0.1}
    (reason,) = gate(sliced, {}, GateConfig(min=floors)).reasons
    assert reason == "text_to_image_recall@10/colour=grey is 0.0000, below its floor of 0.1000"


def test_a_floor_that_cannot_be_measured_holds_and_names_what_is_measured() -> None:
    (reason,) = gate(metrics(90, 90), {}, GateConfig(min={"text_to_image_recall@10/colour=grey": 0.5})).reasons
    assert reason.startswith(
        "text_to_image_recall@10/colour=grey can't be held against its floor of 0.5000: measured are image_to_text_map"
    )
    (reason,) = gate(metrics(90, 90), {}, GateConfig(min={"image_to_image_recall@10": 0.0})).reasons
    assert reason.startswith("image_to_image_recall@10 can't be held against its floor of 0.0000")
    (reason,) = gate(metrics(90, 90), {}, GateConfig(min={"probe_colour_svm": 0.0})).reasons
    assert reason.startswith("probe_colour_svm can't be held against")
    (reason,) = gate_unmeasured(GateConfig(min={"text_to_image_recall@10": 0.2}), first=True).reasons
    assert reason.endswith("floor of 0.2000: measured are none, without validation items")


@pytest.mark.parametrize("name", ["recall_at_10", "text_to_image_recall@7", "text_to_image_recal@10/colour=grey"])
def test_an_unknown_metric_is_refused_with_the_known_ones(name: str) -> None:
    with pytest.raises(ValueError, match=rf"gate.min: {name} isn't measured; measured are image_to_text_map@r,"):
        gate(metrics(1, 1), {}, GateConfig(min={name: 0.5}))
    if not name.startswith("text"):
        with pytest.raises(ValueError, match="measured are none, without validation items"):
            gate_unmeasured(GateConfig(min={name: 0.5}), first=True)


@pytest.mark.parametrize("first", [True, False])
def test_without_validation_items_and_floors_a_challenger_is_as_when_unsure(first: bool) -> None:
    said = gate_unmeasured(GateConfig(), first=first)
    assert (said.passed, said.unsure) == (True, ("there are no validation items to measure on",))
    assert gate_unmeasured(HOLD, first=first).reasons == said.unsure
    assert gate_unmeasured(GateConfig(first="none"), first=first).unsure == (() if first else said.unsure)


def test_a_regression_in_either_direction_is_held() -> None:
    config = GateConfig(max_regression=0.05)
    assert beside(metrics(76, 80), metrics(80, 80), config).passed
    verdict = beside(metrics(90, 70), metrics(80, 80), config)
    assert not verdict.passed
    assert verdict.reasons[0].startswith("image_to_text_recall@10 fell by 0.1000 below the champion's (from 0.8000 to")


def test_one_lost_query_of_fifty_is_no_proof_and_is_told() -> None:
    said = beside(metrics(39, 40, count=50), metrics(40, 40, count=50))
    assert said.passed
    assert said.unsure[0].startswith(
        "50 queries are too few to tell whether text_to_image_recall@10 is more than max_r"
    )
    assert beside(metrics(39, 40, count=50), metrics(40, 40, count=50), HOLD).reasons == said.unsure
    assert beside(metrics(40, 40, count=50), metrics(40, 40, count=50), HOLD).passed


def test_a_fall_within_max_regression_passes_however_sure_it_is() -> None:
    small, config = metrics(79_500, 80_000, count=100_000), GateConfig(max_regression=0.01, when_unsure="hold")
    said = beside(small, metrics(80_000, 80_000, count=100_000), config)
    assert said.comparisons[0].high < 0
    assert (said.passed, said.unsure) == (True, ())


def test_every_rival_must_be_reached() -> None:
    config = GateConfig(max_regression=0.05)
    rivals = {"the champion": metrics(60, 60), "release 3": metrics(80, 80)}
    said = gate(metrics(60, 60), rivals, config)
    assert [reason.partition(" fell by ")[2][:26] for reason in said.reasons] == 2 * ["0.2000 below release 3's ("]


def test_intervals_match_resampling_the_queries_and_hold_at_once() -> None:
    new, old = metrics(60, 50), metrics(50, 50)
    comparison = beside(new, old).comparisons[0]
    random = np.random.default_rng(1)
    difference_Q = new.recall("text_to_image", 10) - old.recall("text_to_image", 10)
    means = [random.choice(difference_Q, len(difference_Q)).mean() for _ in range(4000)]
    # Two comparisons share the five per cent.
    assert (comparison.low, comparison.high) == pytest.approx(np.quantile(means, [0.0125, 0.9875]), abs=0.015)
    assert comparison == beside(new, old).comparisons[0]


def test_different_queries_are_refused() -> None:
    with pytest.raises(ValueError, match="different queries"):
        beside(metrics(1, 1), metrics(1, 1, count=99))


class Models:
    """Models that answer a tenth of 2,000 queries otherwise than one another, on average as well as told."""

    def __init__(self, seed: int) -> None:
        self.random = np.random.default_rng(seed)
        self.margin_2Q = self.random.normal(size=(2, 2_000))

    def __call__(self, recall: float) -> RetrievalMetrics:
        margin_2Q = self.margin_2Q + 0.22 * self.random.normal(size=self.margin_2Q.shape)
        return metrics_of(*(margin_2Q > NormalDist(sigma=math.hypot(1, 0.22)).inv_cdf(1 - recall)))


def test_of_twenty_equal_challengers_at_most_one_is_held_and_of_twenty_worse_ones_none_passes() -> None:
    model = Models(seed=0)
    old = model(0.6)
    assert sum(beside(model(0.6), old).passed for _ in range(20)) >= 19
    assert not any(beside(model(0.57), old).passed for _ in range(20))


def test_challengers_that_are_each_a_little_worse_are_stopped_by_the_best_retained_release() -> None:
    model, recall = Models(seed=0), 0.6
    first = champion = model(recall)
    for _ in range(10):
        challenger = model(recall - 0.005)
        rivals = {"the champion": champion} | ({} if champion is first else {"release 1": first})
        if gate(challenger, rivals, GateConfig()).passed:
            champion, recall = challenger, recall - 0.005
    assert 0.575 < recall < 0.6
