import numpy as np
import pytest

from pairloom.models.evaluation import probes
from pairloom.models.evaluation.probes import probe, training_rows


def clusters(count: int, seed: int) -> tuple[np.ndarray, list[str]]:
    """Unit vectors around three axes, labelled by the axis."""
    random = np.random.default_rng(seed)
    labels = random.integers(3, size=count)
    vectors_ND = np.eye(8, dtype=np.float32)[labels] + 0.1 * random.standard_normal((count, 8)).astype(np.float32)
    return vectors_ND / np.linalg.norm(vectors_ND, axis=1, keepdims=True), [f"label {label}" for label in labels]


def test_separate_clusters_are_told_apart_and_shuffled_labels_are_not() -> None:
    (train_ND, train), (test_MD, test) = clusters(90, 0), clusters(60, 1)
    told = probe(train_ND, train, test_MD, test, 0)
    assert {name: right_M.mean() for name, right_M in told.items()} == {"logistic": 1, "svm": 1, "knn": 1}
    shuffled = [train[row] for row in np.random.default_rng(2).permutation(len(train))]
    assert all(right_M.mean() < 0.8 for right_M in probe(train_ND, shuffled, test_MD, test, 0).values())


def test_only_labels_that_training_has_are_asked() -> None:
    (train_ND, train), (test_MD, test) = clusters(90, 0), clusters(60, 1)
    partly: list[str | None] = [*["unheard of"] * 3, *[None] * 4, *test[7:]]
    assert {len(right_M) for right_M in probe(train_ND, train, test_MD, partly, 0).values()} == {53}
    assert probe(train_ND, train, test_MD, ["unheard of"] * 60, 0) == {}
    assert probe(train_ND, ["one label"] * 90, test_MD, test, 0) == {}


def test_training_is_a_seeded_sample_of_the_most_frequent_labels(monkeypatch: pytest.MonkeyPatch) -> None:
    labels = ["a", None, "b", "b", "c", "c", None, "c", "a"]
    assert training_rows(labels, seed=0).tolist() == [0, 2, 3, 4, 5, 7, 8]
    monkeypatch.setattr(probes, "MAX_LABELS", 2)
    assert training_rows(labels, seed=0).tolist() == [0, 4, 5, 7, 8]  # of labels as frequent, the first by name
    monkeypatch.setattr(probes, "MAX_TRAINING_ITEMS", 3)
    sampled = training_rows(labels, seed=0).tolist()
    assert len(set(sampled)) == 3
    assert set(sampled) <= {0, 4, 5, 7, 8}
    assert training_rows(labels, seed=0).tolist() == sampled
