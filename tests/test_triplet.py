import sys
from typing import Any

import pytest
import torch
from embedded import GROUPS, are_related, embedded_batch, listed

from pairloom.models.objectives.batch import EmbeddedBatch
from pairloom.models.objectives.comparison import comparisons
from pairloom.models.objectives.config import Choice, TripletConfig
from pairloom.models.objectives.triplet import TripletTerm, choose, margin_loss, triplet_loss

B = len(GROUPS)
PAIRS = [(a, p) for a in range(B) for p in range(B) if a != p and are_related(a, p)]


def squared(batch: EmbeddedBatch) -> list[list[float]]:
    image_BD = batch.sides["image"].tolist()
    return [[sum((x - y) ** 2 for x, y in zip(one, other, strict=True)) for other in image_BD] for one in image_BD]


def negatives_of(anchor: int) -> list[int]:
    return [n for n in range(B) if not are_related(anchor, n)]


def slow_triplets(distance: list[list[float]], choice: Choice) -> list[tuple[int, int, int]]:
    found = []
    for a, p in PAIRS:
        negatives = negatives_of(a)
        if choice == "hardest":
            negatives = [min(negatives, key=lambda n: distance[a][n])]
        if choice == "semi_hard":
            further = [n for n in negatives if distance[a][n] > distance[a][p]]
            negatives = [min(further, key=lambda n: distance[a][n])] if further else []
        found += [(a, p, n) for n in negatives]
    return found


@pytest.mark.parametrize("choice", ["all", "hardest", "semi_hard"])
@pytest.mark.parametrize("seed", [0, 1])
def test_the_loss_matches_nested_loops(choice: Choice, seed: int) -> None:
    batch = embedded_batch(seed=seed)
    distance = squared(batch)
    expected = [max(0.0, distance[a][p] - distance[a][n] + 0.5) for a, p, n in slow_triplets(distance, choice)]
    term = TripletTerm(TripletConfig(between="image_image", margin=0.5, choose=choice), seed=0)
    assert float(term(batch)) == pytest.approx(sum(expected) / len(PAIRS), rel=1e-6)


def test_the_hardest_negatives_hinge_is_the_largest() -> None:
    batch = embedded_batch(seed=2)
    distance = squared(batch)
    expected = [max(max(0.0, distance[a][p] - distance[a][n] + 0.5) for n in negatives_of(a)) for a, p in PAIRS]
    term = TripletTerm(TripletConfig(between="image_image", margin=0.5, choose="hardest"), seed=0)
    assert float(term(batch)) == pytest.approx(sum(expected) / len(PAIRS), rel=1e-6)


def test_random_negatives_are_any_and_the_same_for_the_same_step() -> None:
    (comparison,) = comparisons(TripletConfig(between="image_image"), embedded_batch())
    drawn = set()
    for seed in range(60):
        triplets = choose(comparison, comparison.negatives, "random", torch.Generator().manual_seed(seed))
        assert list(zip(triplets[0].tolist(), triplets[1].tolist(), strict=True)) == PAIRS
        drawn |= {(int(a), int(n)) for a, n in zip(triplets[0], triplets[2], strict=True)}
    assert drawn == {(a, n) for a, _ in PAIRS for n in negatives_of(a)}
    config = TripletConfig(between="image_image", choose="random")
    assert TripletTerm(config, 3)(embedded_batch()) == TripletTerm(config, 3)(embedded_batch())


def test_negatives_may_be_those_of_pairs_alone() -> None:
    batch = embedded_batch(pairs={"negative": listed((0, 1), (3, 6))})
    (comparison,) = comparisons(TripletConfig(between="image_image", negatives="pairs"), batch)
    found = choose(comparison, comparison.listed_negatives, "all", torch.Generator())
    triplets = sorted(zip(*(each.tolist() for each in found), strict=True))
    assert triplets == [(0, 2, 1), (0, 5, 1), (1, 4, 0)]
    none = TripletTerm(TripletConfig(between="image_image", negatives="pairs"), 0)(embedded_batch())
    none.backward()
    assert float(none.detach()) == 0


def test_images_and_texts_are_anchors_in_turn() -> None:
    batch = embedded_batch()
    config = TripletConfig(margin=0.3, choose="all")
    measure = margin_loss(0.3, None)
    halves = [
        float(triplet_loss(each, choose(each, each.negatives, "all", torch.Generator()), measure))
        for each in comparisons(config, batch)
    ]
    assert halves[0] != halves[1]
    assert float(TripletTerm(config, 0)(batch)) == pytest.approx(sum(halves) / 2)


def smooth(batch: EmbeddedBatch, temperature: float | None) -> torch.Tensor:
    config = TripletConfig(between="image_image", margin=0.4, choose="all", temperature=temperature)
    loss: torch.Tensor = TripletTerm(config, 0)(batch)
    return loss


def test_the_smooth_loss_is_a_soft_plus_with_a_temperature() -> None:
    batch = embedded_batch()
    distance = squared(batch)
    excess = [distance[a][p] - distance[a][n] + 0.4 for a, p in PAIRS for n in negatives_of(a)]
    expected = sum(0.7 * torch.nn.functional.softplus(torch.tensor(each / 0.7)) for each in excess) / len(PAIRS)
    torch.testing.assert_close(float(smooth(batch, 0.7)), float(expected), rtol=1e-5, atol=0)


def test_the_smooth_loss_becomes_the_hinge_as_its_temperature_falls() -> None:
    batch = embedded_batch()
    hinge = smooth(batch, None)
    gaps = [float(smooth(batch, temperature) - hinge) for temperature in (1.0, 0.1, 0.01, 0.001)]
    assert gaps == sorted(gaps, reverse=True)
    assert 0 <= gaps[-1] < 1e-3 < gaps[0]
    gradients = [
        torch.autograd.grad(loss, batch.sides["image"])[0] for loss in (smooth(batch, 1e-4), smooth(batch, None))
    ]
    torch.testing.assert_close(*gradients, rtol=1e-3, atol=1e-6)


def test_a_missing_library_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    missing: Any = None
    monkeypatch.setitem(sys.modules, "pytorch_metric_learning.distances", missing)
    with pytest.raises(ValueError, match=r"pip install pairloom\[objectives\]"):
        margin_loss(0.2, None)
