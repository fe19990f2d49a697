"""Nearest neighbours against a float64 matrix, sorted."""

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import sparse  # type: ignore[import-untyped]  # SciPy publishes no type information

from pairloom.models.mining import neighbours
from pairloom.models.mining.neighbours import Exclusion, Neighbours, nearest


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def vectors(count: int, width: int = 48, seed: int = 0, centres: int = 0) -> np.ndarray:
    generator = np.random.default_rng(seed)
    vector_ND = generator.standard_normal((count, width), dtype=np.float32)
    if centres:
        centre = generator.standard_normal((centres, width), dtype=np.float32)
        vector_ND = centre[generator.integers(centres, size=count)] + 0.2 * vector_ND
    return np.ascontiguousarray(vector_ND / np.linalg.norm(vector_ND, axis=1, keepdims=True))


def forbidding(pairs: sparse.csr_matrix) -> Exclusion:
    return lambda rows: pairs[rows]


def some_pairs(rows: int, columns: int, seed: int = 1) -> sparse.csr_matrix:
    generator = np.random.default_rng(seed)
    first, second = generator.integers(rows, size=5 * rows), generator.integers(columns, size=5 * rows)
    return sparse.csr_matrix((np.ones(5 * rows, dtype=bool), (first, second)), shape=(rows, columns))


def check(found: Neighbours, query: np.ndarray, candidate: np.ndarray, k: int, pairs: np.ndarray | None = None) -> None:
    """Scores are right, rows sorted, and nothing that is left out is better than what is found."""
    exact = query.astype(np.float64) @ candidate.astype(np.float64).T
    if pairs is not None:
        exact[pairs] = -np.inf
    tolerance = 1e-6 * (1 + np.abs(exact[np.isfinite(exact)]).max(initial=0))
    allowed = np.minimum(np.isfinite(exact).sum(axis=1), k)
    assert found.indices_QK.shape == found.scores_QK.shape == (len(query), k)
    assert found.indices_QK.dtype == np.int32
    assert found.scores_QK.dtype == np.float32
    for row, own in enumerate(exact):
        index, score = found.indices_QK[row, : allowed[row]], found.scores_QK[row, : allowed[row]]
        assert (found.indices_QK[row, allowed[row] :] == -1).all()
        assert np.isneginf(found.scores_QK[row, allowed[row] :]).all()
        assert len(set(index.tolist())) == allowed[row]
        assert np.abs(own[index] - score).max(initial=0) <= tolerance
        assert np.abs(np.sort(own)[::-1][: allowed[row]] - score).max(initial=0) <= tolerance
        assert np.array_equal(np.lexsort((index, -score)), np.arange(allowed[row]))


def same(first: Neighbours, second: Neighbours) -> bool:
    return bool(
        np.array_equal(first.indices_QK, second.indices_QK)
        and np.array_equal(first.scores_QK.view(np.int32), second.scores_QK.view(np.int32))
    )


@pytest.mark.parametrize(
    ("queries", "candidates", "k"), [(70, 900, 5), (70, 900, 1), (9, 3, 8), (1, 1, 1), (5, 700, 650)]
)
def test_neighbours_are_those_of_the_full_matrix(queries: int, candidates: int, k: int) -> None:
    query, candidate, pairs = vectors(queries), vectors(candidates, seed=2, centres=7), some_pairs(queries, candidates)
    check(nearest(query, candidate, k), query, candidate, k)
    check(nearest(query, candidate, k, exclude=forbidding(pairs)), query, candidate, k, pairs.toarray())


def test_vectors_of_any_norm_and_odd_width_give_exact_neighbours() -> None:
    scale = np.geomspace(1e-4, 1e4, 400, dtype=np.float32)[:, None]
    query, candidate = vectors(60, 37) * scale[:60], vectors(400, 37, seed=3) * scale[::-1]
    found = nearest(query, candidate, 6)
    exact = query.astype(np.float64) @ candidate.astype(np.float64).T
    best = -np.sort(-exact, axis=1)[:, :6]
    assert np.allclose(found.scores_QK, best, rtol=1e-5, atol=0)


@pytest.mark.parametrize("cheap", [torch.bfloat16, torch.float32])
def test_the_result_is_the_same_to_the_bit_whatever_the_block_size_and_type(
    cheap: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    vector, pairs = vectors(1500, centres=20), some_pairs(1500, 1500)
    whole = nearest(vector, vector, 10, exclude=forbidding(pairs))
    monkeypatch.setattr(neighbours, "_cheap", lambda _: cheap)
    for rows, columns, group in [(100, 64, 16), (999, 200, 4), (7, 1500, 2)]:
        monkeypatch.setattr(neighbours, "ROWS", rows)
        monkeypatch.setattr(neighbours, "COLUMNS", columns)
        monkeypatch.setattr(neighbours, "GROUP", group)
        assert same(nearest(vector, vector, 10, exclude=forbidding(pairs)), whole)


def test_a_query_whose_candidates_are_all_excluded_has_no_neighbour() -> None:
    vector = vectors(40)
    pairs = sparse.csr_matrix(np.repeat(np.arange(40)[:, None] % 2 == 0, 40, axis=1))
    found = nearest(vector, vector, 3, exclude=forbidding(pairs))
    check(found, vector, vector, 3, pairs.toarray())
    assert (found.indices_QK[::2] == -1).all()
    assert (found.indices_QK[1::2] >= 0).all()


def test_of_equal_vectors_the_first_allowed_ones_are_found() -> None:
    vector = np.repeat(vectors(3), 40, axis=0)
    pairs = sparse.csr_matrix(np.abs(np.subtract.outer(np.arange(120), np.arange(120))) < 10)
    found = nearest(vector, vector, 12, exclude=forbidding(pairs))
    for row in range(120):
        twins = [other for other in range(row // 40 * 40, row // 40 * 40 + 40) if abs(other - row) >= 10]
        assert found.indices_QK[row].tolist() == twins[:12]


def test_thousands_of_equal_vectors_take_no_more_time_than_different_ones() -> None:
    equal = np.repeat(vectors(1, 64), 12_000, axis=0)
    began = time.process_time()
    found = nearest(equal, equal, 8)
    assert time.process_time() - began < 5  # one by one, 144 million pairs take minutes
    assert (found.indices_QK == np.arange(8)).all()


def test_vectors_that_nearly_collapsed_still_give_exact_neighbours() -> None:
    vector = vectors(1) + np.float32(1e-5) * vectors(1200, seed=4)
    found = nearest(vector, vector, 4)
    exact = vector.astype(np.float64) @ vector.astype(np.float64).T
    assert np.abs(found.scores_QK - -np.sort(-exact, axis=1)[:, :4]).max() < 1e-6
    everyone = nearest(vector, vector, 1200)
    assert same(found, Neighbours(everyone.indices_QK[:, :4], everyone.scores_QK[:, :4]))


def test_scratch_stays_below_256_mb() -> None:
    query, candidate = vectors(3000, 512), vectors(40_000, 512, seed=7, centres=300)
    nearest(query[:50], candidate[:50], 32)  # loads the libraries' own memory
    peak, before, ended = [0], resident(), threading.Event()

    def watch() -> None:
        while not ended.wait(0.002):
            peak[0] = max(peak[0], resident())

    watcher = threading.Thread(target=watch)
    watcher.start()
    nearest(query, candidate, 32)
    ended.set()
    watcher.join()
    assert 0 < peak[0] - before < 256 * 2**20


def resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


@pytest.mark.parametrize("bad", [np.nan, np.inf, 1e30])
def test_vectors_that_are_not_finite_are_refused_by_row(bad: float) -> None:
    vector = vectors(10)
    vector[7, 3] = bad
    with pytest.raises(ValueError, match="row 7"):
        nearest(vectors(4), vector, 2)


def test_bad_sizes_are_refused() -> None:
    with pytest.raises(ValueError, match="k=0"):
        nearest(vectors(4), vectors(4), 0)
    with pytest.raises(ValueError, match="one width"):
        nearest(vectors(4, 8), vectors(4, 9), 1)
