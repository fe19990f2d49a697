"""Similarity functions against plain loops, and maximum inner product as a search for neighbours."""

import math
from pathlib import Path

import lancedb
import numpy as np
import pytest

from pairloom.models.evaluation.similarity import (
    MEASURES,
    Floats,
    cosine,
    euclidean,
    inner_product,
    neighbour_items,
    neighbour_queries,
)

# Q = queries, N = items, D = dimensions
D = 12


def vectors(count: int, seed: int, spread: float = 0.5) -> Floats:
    """Of different lengths: the larger `spread`, the more so."""
    random = np.random.default_rng(seed)
    return (random.normal(size=(count, D)) * random.lognormal(sigma=spread, size=(count, 1))).astype(np.float32)


def normalised(vector_ND: Floats) -> Floats:
    unit_ND: Floats = vector_ND / np.linalg.norm(vector_ND, axis=1, keepdims=True)
    return unit_ND


def test_each_measure_matches_a_plain_loop() -> None:
    query_QD, item_ND = vectors(3, seed=0), vectors(7, seed=1)
    for q, query in enumerate(query_QD.tolist()):
        for n, item in enumerate(item_ND.tolist()):
            product = math.sumprod(query, item) if hasattr(math, "sumprod") else sum(map(float.__mul__, query, item))
            assert inner_product(query_QD, item_ND)[q, n] == pytest.approx(product, rel=1e-9)
            assert cosine(query_QD, item_ND)[q, n] == pytest.approx(product / math.hypot(*query) / math.hypot(*item))
            assert euclidean(query_QD, item_ND)[q, n] == pytest.approx(math.dist(query, item))


def test_normalised_vectors_are_ranked_alike_by_every_measure() -> None:
    query_QD, item_ND = normalised(vectors(20, seed=2)), normalised(vectors(300, seed=3))
    similarity = {name: measure(query_QD, item_ND) for name, measure in MEASURES.items()}
    best = np.argsort(-similarity["cosine"], axis=1)
    assert (best == np.argsort(-similarity["inner_product"], axis=1)).all()
    assert (best == np.argsort(similarity["euclidean"], axis=1)).all()
    assert similarity["euclidean"] == pytest.approx(np.sqrt(2 - 2 * similarity["cosine"]), abs=1e-6)


def test_other_vectors_are_not() -> None:
    query_QD, item_ND = vectors(20, seed=4), vectors(300, seed=5)
    best = {name: np.argsort(-measure(query_QD, item_ND), axis=1)[:, 0] for name, measure in MEASURES.items()}
    assert (best["cosine"] != best["inner_product"]).any()
    assert (best["inner_product"] != np.argsort(euclidean(query_QD, item_ND), axis=1)[:, 0]).any()


def test_zero_vectors_and_empty_sets_have_similarities_too() -> None:
    zero, item_ND = np.zeros((1, D), np.float32), vectors(4, seed=6)
    assert (cosine(zero, item_ND) == 0).all()
    for measure in MEASURES.values():
        assert measure(zero[:0], item_ND).shape == (0, 4)
        assert measure(zero, item_ND[:0]).shape == (1, 0)
    assert neighbour_items(item_ND[:0]).shape == (0, D + 1)
    assert neighbour_items(zero).tolist() == [[0.0] * D + [1.0]]
    assert neighbour_queries(zero).tolist() == [[0.0] * (D + 1)]


def test_nearest_neighbours_are_the_largest_inner_products() -> None:
    query_QD, item_ND = vectors(50, seed=7), vectors(2000, seed=8)
    augmented_ND, asked_QD = neighbour_items(item_ND), neighbour_queries(query_QD)
    assert np.linalg.norm(augmented_ND, axis=1) == pytest.approx(np.ones(2000), rel=1e-6)
    wanted = np.argsort(-inner_product(query_QD, item_ND), axis=1)[:, :10]
    assert (np.argsort(euclidean(asked_QD, augmented_ND), axis=1)[:, :10] == wanted).all()
    assert (np.argsort(-cosine(asked_QD, augmented_ND), axis=1)[:, :10] == wanted).all()


def test_the_inner_product_can_be_read_off_the_cosine_within_float_rounding() -> None:
    # The longest item is a thousand times as long as most.
    query_QD, item_ND = vectors(50, seed=11), vectors(2000, seed=12, spread=3)
    scale_Q1 = np.linalg.norm(query_QD, axis=1, keepdims=True) * np.linalg.norm(item_ND, axis=1).max()
    found = inner_product(neighbour_queries(query_QD), neighbour_items(item_ND)) * scale_Q1
    assert (np.abs(found - inner_product(query_QD, item_ND)) < 2e-7 * scale_Q1).all()


@pytest.mark.parametrize("indexed", [False, True])
def test_lancedb_answers_maximum_inner_product_by_l2(tmp_path: Path, indexed: bool) -> None:
    query_QD, item_ND = vectors(20, seed=9), vectors(2000, seed=10)
    rows = [{"row": n, "vector": vector_D} for n, vector_D in enumerate(neighbour_items(item_ND))]
    table = lancedb.connect(str(tmp_path)).create_table("items", rows)
    if indexed:
        from lancedb.index import IvfFlat

        table.create_index("vector", config=IvfFlat(distance_type="l2", num_partitions=4))
    wanted = np.argsort(-inner_product(query_QD, item_ND), axis=1)[:, :10]
    for asked_D, wanted_K in zip(neighbour_queries(query_QD), wanted, strict=True):
        found = table.search(asked_D).distance_type("l2").nprobes(4).limit(10).to_list()
        assert [row["row"] for row in found] == wanted_K.tolist()
    # Without the added dimension the same table answers another question.
    plain = [int(n) for n in np.argsort(euclidean(query_QD[:1], item_ND))[0, :10]]
    assert plain != wanted[0].tolist()
