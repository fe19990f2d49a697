"""Near-duplicates and outliers of many vectors, compared in cells, against the comparison of all pairs."""

import numpy as np
import pytest

import pairloom.models.mining.cells
from pairloom.models.arrays import Embeddings
from pairloom.models.mining.cells import close_pairs, loneliest, nearest_others
from pairloom.models.mining.likeness import PairLimitError, neighbour_means, similar_pairs
from pairloom.models.mining.likeness import nearest_others as all_nearest_others

N, D = 1_200, 24


def nothing(_: float = 0) -> None:
    return None


@pytest.fixture
def vectors(monkeypatch: pytest.MonkeyPatch) -> Embeddings:
    """Vectors around 30 centres, 40 nearly copies, ten alone, thirty of one place, over blocks of 64."""
    monkeypatch.setattr(pairloom.models.mining.cells, "BLOCK", 64)
    random = np.random.default_rng(0)
    found = random.normal(size=(30, D))[random.integers(0, 30, N)] + 0.5 * random.normal(size=(N, D))
    found[100:140] = found[200:240] + 0.05 * random.normal(size=(40, D))
    found[300:310] = random.normal(size=(10, D))
    found[400:430] = found[400]
    unit: Embeddings = (found / np.linalg.norm(found, axis=1, keepdims=True)).astype(np.float32)
    return unit


def test_close_pairs_are_those_of_all_pairs(vectors: Embeddings) -> None:
    first, second, score = close_pairs(vectors, 0.98, most=1_000, progress=nothing)
    all_first, all_second, all_score = similar_pairs(vectors, 0.98, most=1_000, check=nothing)
    expected = dict(zip(zip(all_first, all_second, strict=True), all_score.tolist(), strict=True))
    assert len(expected) > 460
    assert dict(zip(zip(first, second, strict=True), score.tolist(), strict=True)) == pytest.approx(expected, abs=2e-6)
    assert (np.diff(score) <= 0).all()


@pytest.mark.parametrize(("k", "neighbours"), [(3, 1), (12, 5), (700, 40)])
def test_the_loneliest_are_those_of_all_means(vectors: Embeddings, k: int, neighbours: int) -> None:
    mean_N = neighbour_means(vectors, neighbours, check=nothing)
    found_K, mean_K, sure_K = loneliest(vectors, k, neighbours, progress=nothing)
    assert sure_K.all()
    np.testing.assert_allclose(mean_K, np.sort(mean_N)[:k], atol=2e-6)
    np.testing.assert_allclose(mean_K, mean_N[found_K], atol=2e-6)


def test_the_loneliest_of_a_huge_cell_are_found_though_it_is_looked_at_in_part(vectors: Embeddings) -> None:
    one_place = np.concatenate([np.repeat(vectors[:1], 500, axis=0), vectors])
    found_K, _, _ = loneliest(one_place, 10, 4, progress=nothing)
    assert set(found_K) == {*(np.argsort(neighbour_means(one_place, 4, check=nothing), kind="stable")[:10])}


def test_it_is_not_sure_of_the_loneliest_where_all_are_equally_far(
    vectors: Embeddings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pairloom.models.mining.cells, "CANDIDATES", 16)
    monkeypatch.setattr(pairloom.models.mining.cells, "MOST_CANDIDATES", 64)
    monkeypatch.setattr(pairloom.models.mining.cells, "NEIGHBOUR_CELLS", 1)
    everywhere = np.random.default_rng(1).normal(size=vectors.shape)
    unit = (everywhere / np.linalg.norm(everywhere, axis=1, keepdims=True)).astype(np.float32)
    mean_N = neighbour_means(unit, 4, check=nothing)
    far_K, _, sure_K = loneliest(unit, 20, 4, progress=nothing)
    assert not sure_K.all()
    # What it is sure of is right.
    right = set(np.argsort(mean_N, kind="stable")[: sure_K.sum()].tolist())
    assert {*far_K[sure_K].tolist()} == right


def test_nearest_others_are_those_of_all_pairs(vectors: Embeddings, monkeypatch: pytest.MonkeyPatch) -> None:
    near_NK, best_NK = all_nearest_others(vectors, 6, progress=nothing)
    product_NN = vectors @ vectors.T
    np.fill_diagonal(product_NN, -np.inf)
    np.testing.assert_allclose(best_NK, -np.sort(-product_NN, axis=1)[:, :6], atol=2e-6)
    np.testing.assert_allclose(np.take_along_axis(product_NN, near_NK, axis=1), best_NK, atol=2e-6)
    # As many cells as there are centres: nothing is missed.
    monkeypatch.setattr(pairloom.models.mining.cells, "NEIGHBOUR_CELLS", N)
    found_NK, found_best_NK = nearest_others(vectors, 6, progress=nothing)
    np.testing.assert_allclose(found_best_NK, best_NK, atol=2e-6)
    np.testing.assert_allclose(np.take_along_axis(product_NN, found_NK, axis=1), best_NK, atol=2e-6)
    few_NK, few_best_NK = all_nearest_others(vectors[:3], 6, progress=nothing)
    assert few_NK.shape == few_best_NK.shape == (3, 2)


def test_an_item_stands_for_neighbours_that_its_cells_lack(
    vectors: Embeddings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pairloom.models.mining.cells, "NEIGHBOUR_CELLS", 1)
    near_NK, best_NK = nearest_others(vectors, 40, progress=nothing)
    own_NK = np.broadcast_to(np.arange(N)[:, None], near_NK.shape)
    assert (best_NK == -1).any()
    np.testing.assert_array_equal(near_NK == own_NK, best_NK == -1)


def test_progress_grows_and_may_end_the_work(vectors: Embeddings) -> None:
    for work in (
        lambda progress: close_pairs(vectors, 0.98, most=1_000, progress=progress),
        lambda progress: loneliest(vectors, 3, 4, progress=progress),
    ):
        heard: list[float] = []
        work(heard.append)
        assert heard[0] < 0.2
        assert 0.6 <= heard[-1] <= 1

        def over(done: float) -> None:
            if done > 0.3:
                raise TimeoutError

        with pytest.raises(TimeoutError):
            work(over)


def test_too_many_of_them_are_refused(vectors: Embeddings, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(PairLimitError, match="more than 100 pairs"):
        close_pairs(vectors, 0.5, most=100, progress=nothing)
    monkeypatch.setattr(pairloom.models.mining.cells, "MOST_CANDIDATES", 20)
    with pytest.raises(ValueError, match="k is 21, must be at most 20 among 1,200 items"):
        loneliest(vectors, 21, 4, progress=nothing)
    with pytest.raises(ValueError, match="neighbours is 65, must be at most 64"):
        loneliest(vectors, 3, 65, progress=nothing)
