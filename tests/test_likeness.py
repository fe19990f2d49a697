"""Questions over all pairs of vectors against nested loops."""

import numpy as np
import pytest

import pairloom.models.mining.likeness
from pairloom.models.arrays import Embeddings
from pairloom.models.mining.likeness import PairLimitError, neighbour_means, similar_pairs

N, D = 23, 6


def nothing() -> None:
    return None


@pytest.fixture
def vectors(monkeypatch: pytest.MonkeyPatch) -> Embeddings:
    """Vectors, two of them equal, over blocks of five."""
    monkeypatch.setattr(pairloom.models.mining.likeness, "BLOCK", 5)
    found = np.random.default_rng(0).normal(size=(N, D))
    found[17] = found[3]
    unit: Embeddings = (found / np.linalg.norm(found, axis=1, keepdims=True)).astype(np.float32)
    return unit


@pytest.mark.parametrize("threshold", [-1.1, 0.0, 0.5, 0.999, 2.0])
def test_similar_pairs_are_those_of_nested_loops(vectors: Embeddings, threshold: float) -> None:
    expected = {
        (one, other): float(vectors[one] @ vectors[other])
        for one in range(N)
        for other in range(one + 1, N)
        if vectors[one] @ vectors[other] >= threshold
    }
    first, second, score = similar_pairs(vectors, threshold, most=N * N, check=nothing)
    pairs = zip(first.tolist(), second.tolist(), strict=True)
    assert dict(zip(pairs, score.tolist(), strict=True)) == pytest.approx(expected, abs=1e-6)
    assert (np.diff(score) <= 0).all()


@pytest.mark.parametrize("k", [1, 4, 11, N - 1, 100])
def test_neighbour_means_are_those_of_nested_loops(vectors: Embeddings, k: int) -> None:
    expected = [
        np.mean(sorted((vectors[one] @ vectors[other] for other in range(N) if other != one), reverse=True)[:k])
        for one in range(N)
    ]
    np.testing.assert_allclose(neighbour_means(vectors, k, check=nothing), expected, atol=1e-6)


def test_none_and_one_have_no_neighbours() -> None:
    assert len(similar_pairs(np.empty((0, D), np.float32), 0.5, most=1, check=nothing)[0]) == 0
    assert np.isnan(neighbour_means(np.ones((1, D), np.float32), 3, check=nothing)).all()


def test_too_many_pairs_and_a_deadline_end_the_work(vectors: Embeddings) -> None:
    with pytest.raises(PairLimitError, match="more than 10 pairs"):
        similar_pairs(vectors, -1, most=10, check=nothing)

    def over() -> None:
        raise TimeoutError

    with pytest.raises(TimeoutError):
        similar_pairs(vectors, 0.5, most=10, check=over)
    with pytest.raises(TimeoutError):
        neighbour_means(vectors, 2, check=over)
