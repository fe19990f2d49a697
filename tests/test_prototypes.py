"""Nearest prototypes and the threshold, against loops that build every prototype again."""

import numpy as np
import pytest

from pairloom.models.arrays import Embeddings, Indices
from pairloom.models.evaluation.prototypes import (
    HeldOut,
    choose_threshold,
    class_sums,
    held_out,
    nearest_two,
    prototypes,
)


def collection(seed: int, count: int = 60, classes: int = 7) -> tuple[Embeddings, Indices]:
    random = np.random.default_rng(seed)
    class_N = random.integers(classes, size=count)
    class_N[0] = classes  # a class of one image
    raw_ND = random.normal(size=(classes + 1, 5))[class_N] + random.normal(size=(count, 5))
    return (raw_ND / np.linalg.norm(raw_ND, axis=1, keepdims=True)).astype(np.float32), class_N


def slow_prototype(image_ND: Embeddings) -> np.ndarray:
    mean_D = np.mean(image_ND.astype(np.float64), axis=0)
    return np.asarray(mean_D / np.linalg.norm(mean_D))


def test_prototypes_are_normalised_means() -> None:
    image_ND, class_N = collection(0)
    found_CD = prototypes(class_sums(image_ND, class_N, 9))
    for number in range(8):
        assert np.allclose(found_CD[number], slow_prototype(image_ND[class_N == number]))
    assert not found_CD[8].any()


@pytest.mark.parametrize("block", [1, 20, 1 << 20])
def test_the_two_nearest_are_those_of_a_sorted_list(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pairloom.models.evaluation.prototypes.BLOCK", block)
    image_ND, class_N = collection(1)
    prototype_CD = prototypes(class_sums(image_ND, class_N, 8))
    found = nearest_two(image_ND, prototype_CD)
    for row, image_D in enumerate(image_ND):
        ranked = sorted(range(8), key=lambda number: -float(image_D @ prototype_CD[number]))
        assert (found.best_N[row], found.second_N[row]) == (ranked[0], ranked[1])
        assert found.score_N[row] == pytest.approx(float(image_D @ prototype_CD[ranked[0]]))
        assert found.second_score_N[row] == pytest.approx(float(image_D @ prototype_CD[ranked[1]]))


def test_of_classes_of_the_same_images_the_first_is_told() -> None:
    random = np.random.default_rng(0)
    image_ND, class_N = collection(1)
    prototype_CD = prototypes(class_sums(image_ND, class_N, 8))
    for _ in range(5):
        again_CD = prototype_CD + 1e-7 * random.standard_normal(prototype_CD.shape)
        both_CD = np.concatenate([prototype_CD, again_CD])
        assert (nearest_two(image_ND, both_CD).best_N < 8).all()
        assert (nearest_two(image_ND, both_CD[::-1]).best_N < 8).all()


def test_an_image_as_near_to_another_class_is_not_told_right() -> None:
    for noise in (-1e-7, 0, 1e-7):
        asked = HeldOut(own_V=np.array([0.9, 0.8]), other_V=np.array([0.2, 0.8 + noise]))
        choice = choose_threshold(asked).choice
        assert choice is not None
        assert choice.right == 0.5


def test_one_class_has_no_second() -> None:
    found = nearest_two(np.eye(2, dtype=np.float32), np.array([[1.0, 0.0]]))
    assert found.best_N.tolist() == [0, 0]
    assert found.second_N.tolist() == [-1, -1]


@pytest.mark.parametrize("block", [1, 1 << 20])
def test_holding_out_matches_prototypes_built_without_the_image_or_its_class(
    block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pairloom.models.evaluation.prototypes.BLOCK", block)
    image_ND, class_N = collection(2)
    asked = np.arange(0, 60, 4)
    count_C = np.bincount(class_N)
    found = held_out(image_ND[asked], class_N[asked], class_sums(image_ND, class_N, 8), count_C)
    for place, row in enumerate(asked):
        mates = (class_N == class_N[row]) & (np.arange(60) != row)
        own = float(image_ND[row] @ slow_prototype(image_ND[mates])) if mates.any() else -np.inf
        others = [slow_prototype(image_ND[class_N == each]) for each in range(8) if each != class_N[row]]
        assert found.own_V[place] == pytest.approx(own, abs=1e-6)
        assert found.other_V[place] == pytest.approx(max(float(image_ND[row] @ each) for each in others), abs=1e-6)


@pytest.mark.parametrize("seed", range(5))
def test_no_threshold_balances_better_than_the_chosen_one(seed: int) -> None:
    image_ND, class_N = collection(seed)
    asked = held_out(image_ND, class_N, class_sums(image_ND, class_N, 8), np.bincount(class_N))
    known = [(own, other) for own, other in zip(asked.own_V, asked.other_V, strict=True) if own > -1]
    right = [own for own, other in known if own > other]

    def shares(value: float) -> tuple[float, float]:
        return float(np.mean([own >= value for own in right])), float(np.mean(asked.other_V < value))

    chosen = choose_threshold(asked)
    assert chosen.choice is not None
    assert chosen.choice.right == len(right) / len(known)
    assert (chosen.choice.kept, chosen.choice.refused) == pytest.approx(shares(chosen.value))
    near = [score + step for score in (*asked.own_V, *asked.other_V) for step in (-1e-9, 0, 1e-9)]
    assert sum(shares(chosen.value)) == pytest.approx(max(sum(shares(each)) for each in near))
    assert chosen.choice.images == 60


def test_a_threshold_lies_between_two_scores_that_are_apart() -> None:
    chosen = choose_threshold(HeldOut(own_V=np.array([0.9, 0.8]), other_V=np.array([0.2, 0.4])))
    assert chosen.value == pytest.approx(0.6)
    assert str(chosen) == (
        "threshold 0.600: of 2 validation images 100% told right, 100% of these kept; without their class 100% refused"
    )


def test_no_threshold_without_right_or_left_out_images() -> None:
    for own, other in ([-np.inf], [0.5]), ([0.5], [-np.inf]), ([0.4], [0.5]), ([], []):
        with pytest.raises(ValueError, match="two classes or more"):
            choose_threshold(HeldOut(np.array(own), np.array(other)))
