"""Nearest neighbours against a float64 matrix, sorted."""

import threading
from typing import Any

import numpy as np
import psutil
import pytest
import torch
from scipy import sparse  # type: ignore[import-untyped]  # SciPy publishes no type information

from pairloom.models.mining import neighbours, products
from pairloom.models.mining.neighbours import Exclusion, Neighbours, nearest

TYPES = [torch.float32, torch.bfloat16, torch.int8]


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


@pytest.mark.parametrize("cheap", TYPES)
def test_the_result_is_the_same_to_the_bit_whatever_the_block_size_and_type(
    cheap: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    vector, pairs = vectors(600, centres=20), some_pairs(600, 600)
    whole = nearest(vector, vector, 10, exclude=forbidding(pairs))
    monkeypatch.setattr(neighbours, "cheap_type", lambda *_: cheap)
    for rows, columns, first, group in [(100, 64, 64, 16), (399, 200, 500, 4), (7, 600, 100, 2), (300, 20, 81, 16)]:
        monkeypatch.setattr(neighbours, "ROWS", rows)
        monkeypatch.setattr(neighbours, "COLUMNS", columns)
        monkeypatch.setattr(neighbours, "FIRST", first)
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


def test_of_thousands_of_equal_vectors_only_the_first_are_scored(monkeypatch: pytest.MonkeyPatch) -> None:
    scored = []
    add = neighbours._add

    def counting(best: neighbours._Best, row_P: torch.Tensor, *rest: Any) -> None:
        scored.append(len(row_P))
        add(best, row_P, *rest)

    monkeypatch.setattr(neighbours, "_add", counting)
    equal = np.repeat(vectors(1, 64), 12_000, axis=0)
    found = nearest(equal, equal, 8)
    assert (found.indices_QK == np.arange(8)).all()
    assert sum(scored) == 12_000 * 8  # of 144 million pairs


@pytest.mark.parametrize("cheap", TYPES)
@pytest.mark.parametrize(
    ("queries", "candidates", "width", "k"),
    [(1, 1, 1, 1), (1, 17, 3, 4), (3, 5, 2, 9), (33, 65, 7, 5), (257, 1031, 24, 12), (40, 2000, 5, 300)],
)
def test_every_product_gives_the_slow_answer_with_ties_and_copies_by_index(
    cheap: torch.dtype, queries: int, candidates: int, width: int, k: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    generator = np.random.default_rng(5)
    # Small whole numbers: float32 is exact, and many products are equal.
    query, candidate = (
        generator.integers(-9, 10, size=(count, width)).astype(np.float32) for count in (queries, candidates)
    )
    candidate[candidates // 2 :: 3] = candidate[0]
    pairs = some_pairs(queries, candidates)
    exact = query.astype(np.float64) @ candidate.astype(np.float64).T
    monkeypatch.setattr(neighbours, "cheap_type", lambda *_: cheap)
    for columns, first in [(8192, 16384), (32, 64)]:
        monkeypatch.setattr(neighbours, "COLUMNS", columns)
        monkeypatch.setattr(neighbours, "FIRST", first)
        expected = slow(exact, k)
        assert np.array_equal(nearest(query, candidate, k).indices_QK, expected)
        expected = slow(np.where(pairs.toarray(), -np.inf, exact), k)
        assert np.array_equal(nearest(query, candidate, k, exclude=forbidding(pairs)).indices_QK, expected)


def slow(exact: np.ndarray, k: int) -> np.ndarray:
    """The k highest of each row, the first of equal ones first; -1 for none."""
    order = np.argsort(-exact, axis=1, kind="stable")[:, :k]
    order = np.where(np.isneginf(np.take_along_axis(exact, order, axis=1)), -1, order)
    return np.pad(order, ((0, 0), (0, k - order.shape[1])), constant_values=-1)


@pytest.mark.parametrize("cheap", TYPES)
@pytest.mark.parametrize(
    "kind", ["clusters", "one large coordinate", "one long vector", "nearly one point", "opposite"]
)
def test_every_product_gives_the_same_lists_whatever_the_vectors(
    cheap: torch.dtype, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    query, candidate = vectors(150, seed=8, centres=9), vectors(2000, seed=9, centres=9)
    if kind == "one large coordinate":
        query[:, 3], candidate[:, 3] = 4, 5
    elif kind == "one long vector":
        candidate[1234] *= 1000
    elif kind == "nearly one point":
        candidate = candidate[:1] + np.float32(1e-5) * candidate
    elif kind == "opposite":
        query = -np.abs(query)
        candidate = np.abs(candidate)
    monkeypatch.setattr(neighbours, "COLUMNS", 256)
    monkeypatch.setattr(neighbours, "FIRST", 512)
    monkeypatch.setattr(neighbours, "cheap_type", lambda *_: torch.float32)
    plain = nearest(query, candidate, 10)
    check(plain, query, candidate, 10)
    monkeypatch.setattr(neighbours, "cheap_type", lambda *_: cheap)
    assert same(nearest(query, candidate, 10), plain)


@pytest.mark.parametrize(
    ("rows", "columns", "width"), [(1, 1, 1), (1, 40, 64), (40, 1, 64), (70, 130, 512), (5, 9, 37)]
)
def test_whole_number_products_do_not_overflow(rows: int, columns: int, width: int) -> None:
    for one in (-products.LEVELS, products.LEVELS):
        for other in (-products.LEVELS, products.LEVELS):
            first = torch.full((rows, width), one, dtype=torch.int8)
            second = torch.full((1, columns, width), other, dtype=torch.int8)
            product = products.multiply(first, second, torch.empty(rows * columns))
            assert product.dtype == torch.int32
            assert (product == one * other * width).all()


@pytest.mark.parametrize("cheap", TYPES)
@pytest.mark.parametrize("by_row", [True, False])
def test_what_rounding_takes_is_told(cheap: torch.dtype, by_row: bool) -> None:
    vector = vectors(1500, 33) * np.geomspace(1e-3, 1e3, 1500, dtype=np.float32)[:, None]
    vector[7] = 0
    short = products.rounded(torch.from_numpy(vector), cheap, by_row=by_row, padded=1504)
    value = short.value_ND.double() * (torch.cat([short.unit, torch.ones(4)])[:, None] if by_row else short.unit)
    assert (value[1500:] == 0).all()
    error = torch.linalg.vector_norm(torch.from_numpy(vector).double() - value[:1500], dim=1)
    assert torch.allclose(short.error_N.double(), error, rtol=1e-2, atol=1e-30)


def test_the_quickest_type_is_measured_once_and_only_for_a_large_job(monkeypatch: pytest.MonkeyPatch) -> None:
    measured = []

    def seconds(cheap: torch.dtype, rows: int, _: int) -> float:
        measured.append((cheap, rows))
        return {torch.float32: 2.0, torch.bfloat16: 9.0, torch.int8: 1.0}[cheap]

    monkeypatch.setattr(products, "_seconds", seconds)
    products.fastest.cache_clear()
    try:
        cpu = torch.device("cpu")
        assert products.cheap_type(cpu, products.WORTH_MEASURING - 1) == torch.float32
        assert not measured
        for _ in range(3):
            assert products.cheap_type(cpu, products.WORTH_MEASURING) == torch.int8
        assert len(measured) == len(set(measured))
        # The one that is far behind is measured by a small product only.
        assert [cheap for cheap, _ in measured].count(torch.bfloat16) == 1
    finally:
        products.fastest.cache_clear()


def test_the_measurement_ends_with_one_of_the_types() -> None:
    assert products.fastest() in TYPES


def test_vectors_that_nearly_collapsed_still_give_exact_neighbours() -> None:
    vector = vectors(1) + np.float32(1e-5) * vectors(1200, seed=4)
    found = nearest(vector, vector, 4)
    exact = vector.astype(np.float64) @ vector.astype(np.float64).T
    assert np.abs(found.scores_QK - -np.sort(-exact, axis=1)[:, :4]).max() < 1e-6
    everyone = nearest(vector, vector, 1200)
    assert same(found, Neighbours(everyone.indices_QK[:, :4], everyone.scores_QK[:, :4]))


@pytest.mark.parametrize("cheap", TYPES)
def test_scratch_stays_below_256_mb(cheap: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(neighbours, "cheap_type", lambda *_: cheap)
    query, candidate = vectors(3000, 512), vectors(20_000, 512, seed=7, centres=300)
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
    return int(psutil.Process().memory_info().rss)


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
