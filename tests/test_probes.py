import numpy as np

from models.probes import probe


def clusters(count: int, seed: int) -> tuple[np.ndarray, list[str | None]]:
    """Unit vectors around three axes, labelled by the axis."""
    random = np.random.default_rng(seed)
    labels = random.integers(3, size=count)
    vectors_ND = np.eye(8, dtype=np.float32)[labels] + 0.1 * random.standard_normal((count, 8)).astype(np.float32)
    return vectors_ND / np.linalg.norm(vectors_ND, axis=1, keepdims=True), [f"label {label}" for label in labels]


def test_separate_clusters_are_told_apart_and_shuffled_labels_are_not() -> None:
    (train_ND, train), (test_MD, test) = clusters(90, 0), clusters(60, 1)
    told = probe(train_ND, train, test_MD, test)
    assert {name: right_M.mean() for name, right_M in told.items()} == {"linear_probe": 1, "svm_probe": 1, "knn": 1}
    shuffled = [train[row] for row in np.random.default_rng(2).permutation(len(train))]
    assert all(right_M.mean() < 0.8 for right_M in probe(train_ND, shuffled, test_MD, test).values())


def test_only_labels_that_training_has_are_asked() -> None:
    (train_ND, train), (test_MD, test) = clusters(90, 0), clusters(60, 1)
    test[:7] = ["unheard of"] * 3 + [None] * 4
    train[:5] = [None] * 5
    assert {len(right_M) for right_M in probe(train_ND, train, test_MD, test).values()} == {53}
    assert probe(train_ND, train, test_MD, ["unheard of"] * 60) == {}
