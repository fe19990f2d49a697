"""The product of all queries and all vectors in blocks, against a plain loop."""

from pathlib import Path

import lance
import numpy as np
import pytest
from vector_rows import unit_vectors, vector_rows

import pairloom.search.exact
from pairloom.search.exact import Side, nearest_by_product
from pairloom.storage.table.vectors import VectorTable


@pytest.fixture
def table(tmp_path: Path) -> VectorTable:
    table = VectorTable.create_or_open(tmp_path, "m", dimension=8, keep={"subgroup": "string"})
    table.upsert(vector_rows([f"i{at}" for at in range(500)]))
    table.delete([f"i{at}" for at in range(0, 500, 7)])
    return table


@pytest.mark.parametrize("rows_at_once", [1, 17, 64, 8_192])
@pytest.mark.parametrize("k", [1, 5, 428, 1_000])
def test_blocks_of_any_size_find_what_a_full_product_finds(
    table: VectorTable, monkeypatch: pytest.MonkeyPatch, rows_at_once: int, k: int
) -> None:
    monkeypatch.setattr(pairloom.search.exact, "ROWS_AT_ONCE", rows_at_once)
    monkeypatch.setattr(pairloom.search.exact, "QUERIES_AT_ONCE", 3)
    dataset = lance.dataset(str(table.path))
    query_QD = unit_vectors(9, 7)
    asked: list[tuple[Side, str | None]] = [("image", None), ("text", None), ("image", "subgroup = 'A'")]
    for side, where in asked:
        rows = dataset.to_table(columns=["item_id", f"{side}_vector"], filter=where)
        vector_ND = np.stack(rows[f"{side}_vector"].to_numpy())
        found = nearest_by_product(dataset, query_QD, k=k, side=side, where=where)
        assert found.offsets_QK.shape == (7, min(k, len(rows)))
        for query_D, offsets_K, scores_K in zip(query_QD, found.offsets_QK, found.scores_QK, strict=True):
            expected = np.argsort(-(vector_ND @ query_D))[:k]
            ids = dataset.take(offsets_K.tolist(), columns=["item_id"])["item_id"].to_pylist()
            assert ids == [rows["item_id"][int(at)].as_py() for at in expected]
            np.testing.assert_allclose(scores_K, (vector_ND @ query_D)[expected], atol=1e-6)


@pytest.mark.parametrize("columns", [640, 641, 703, 1_500])
def test_the_largest_of_many_are_found_by_their_groups(columns: int) -> None:
    scores = np.random.default_rng(columns).normal(size=(9, columns)).astype(np.float32)
    scores[:, -5:] += 2
    for k in (1, 3, 5, 11):
        found = np.sort(pairloom.search.exact._largest(scores, k), axis=1)
        assert found.tolist() == np.sort(np.argsort(-scores, axis=1)[:, :k], axis=1).tolist()


def test_nothing_to_find_is_no_row_for_every_query(table: VectorTable) -> None:
    dataset = lance.dataset(str(table.path))
    assert nearest_by_product(dataset, unit_vectors(1, 3), k=5, where="subgroup = 'C'").offsets_QK.shape == (3, 0)
    assert nearest_by_product(dataset, unit_vectors(1, 0), k=5).offsets_QK.shape[0] == 0
