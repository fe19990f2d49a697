"""The vector index: built, extended, dropped, and measured against exact search."""

from pathlib import Path

import lance
import numpy as np
import pyarrow as pa
import pytest
from pydantic import ValidationError
from vector_rows import unit_vectors, vector_rows

import pairloom.storage.table.index
import pairloom.storage.table.vectors
from pairloom.storage.table.config import IndexConfig
from pairloom.storage.table.index import indexed_kind, nearest, unindexed_rows
from pairloom.storage.table.vectors import VectorTable

WIDE = 32


@pytest.fixture
def table(tmp_path: Path) -> VectorTable:
    table = VectorTable.create_or_open(tmp_path, "m", dimension=WIDE, keep={"subgroup": "string"})
    table.upsert(vector_rows([f"i{at}" for at in range(2000)], dimension=WIDE))
    return table


def test_config_takes_and_gives_the_name_from_the_yaml_file() -> None:
    config = IndexConfig.model_validate({"kind": "ivf_rq", "min_ann_recall@10": 0.9})
    assert config.min_ann_recall == 0.9
    assert config.model_dump()["min_ann_recall@10"] == 0.9
    assert IndexConfig.model_validate(config.model_dump()) == config
    assert IndexConfig(min_ann_recall=0.9) == config
    with pytest.raises(ValidationError):
        IndexConfig.model_validate({"min_recall": 0.9})


def test_small_table_has_no_index_and_answers_exactly(table: VectorTable) -> None:
    assert table.build_index(IndexConfig()) is None
    assert table.check(IndexConfig(), expected_rows=2000).ann_recall == 1


@pytest.mark.parametrize("kind", ["ivf_rq", "ivf_pq", "ivf_hnsw_sq"])
def test_index_of_every_kind_finds_nearly_all_and_takes_new_rows(table: VectorTable, kind: str) -> None:
    config = IndexConfig.model_validate({"kind": kind, "min_rows": 1000, "min_ann_recall": 0.9})
    assert table.build_index(config) == kind
    dataset = lance.dataset(str(table.path))
    assert indexed_kind(dataset) == kind
    table.upsert(vector_rows([f"new{at}" for at in range(20)], seed=1, dimension=WIDE))
    assert "20 rows aren't indexed" in table.check(config, expected_rows=2020).problems
    assert table.build_index(config) == kind
    found = table.check(config, expected_rows=2020)
    assert found.problems == []
    assert found.ann_recall > 0.9


def test_index_is_dropped_when_the_config_says_none(table: VectorTable) -> None:
    table.build_index(IndexConfig(min_rows=1000))
    assert table.build_index(IndexConfig(kind="none")) is None
    assert indexed_kind(lance.dataset(str(table.path))) is None


def test_index_is_built_anew_when_it_has_outgrown_its_partitions(
    table: VectorTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = IndexConfig(min_rows=1000)
    table.build_index(config)
    before = table.version
    table.build_index(config)
    assert table.version == before
    monkeypatch.setattr(pairloom.storage.table.index, "ROWS_PER_PARTITION", 100)
    table.build_index(config)
    assert table.version > before


def test_poor_recall_is_a_problem(table: VectorTable, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pairloom.storage.table.index, "REFINE_FACTOR", 1)
    table.build_index(IndexConfig(min_rows=1000))
    found = table.check(IndexConfig(min_ann_recall=1.0), expected_rows=2000)
    assert found.ann_recall < 1
    assert "exact ten nearest" in found.problems[0]


def test_nearest_matches_the_full_matrix(table: VectorTable) -> None:
    dataset = lance.dataset(str(table.path))
    vectors = unit_vectors(0, 2000, WIDE)
    query = unit_vectors(9, 1, WIDE)[0]
    expected = np.argsort(-(vectors @ query))[:10]
    found = nearest(dataset, query, k=10, columns=["item_id"])
    assert found["item_id"].to_pylist() == [f"i{at}" for at in expected]
    assert np.allclose(1 - found["_distance"].to_numpy(), (vectors @ query)[expected], atol=1e-5)


def test_filter_is_applied_before_the_search(table: VectorTable) -> None:
    table.build_index(IndexConfig(min_rows=1000))
    dataset = lance.dataset(str(table.path))
    wanted = ["i3", "i777", "i1999"]
    where = "item_id IN ('i3', 'i777', 'i1999')"
    found = nearest(dataset, unit_vectors(9, 1, WIDE)[0], k=10, columns=["item_id"], where=where)
    assert sorted(found["item_id"].to_pylist()) == sorted(wanted)
    assert unindexed_rows(dataset) == 0


def test_recall_counts_copies_of_one_picture_as_equally_near(tmp_path: Path) -> None:
    table = VectorTable.create_or_open(tmp_path, "m", dimension=WIDE, keep={"subgroup": "string"})
    rows = vector_rows([f"i{at}" for at in range(3000)], dimension=WIDE)
    one = rows["image_vector"].combine_chunks()[0].values.to_numpy()
    same = pa.FixedSizeListArray.from_arrays(pa.array(np.tile(one, 3000)), WIDE)
    table.upsert(rows.set_column(1, "image_vector", same))
    config = IndexConfig(min_rows=1000)
    assert table.build_index(config) == "ivf_rq"
    assert table.check(config, expected_rows=3000).problems == []


def test_merging_small_files_keeps_rows_index_and_tagged_versions(
    table: VectorTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pairloom.storage.table.vectors, "MAX_FRAGMENTS", 4)
    monkeypatch.setattr(pairloom.storage.table.index, "MAX_SEGMENTS", 2)
    config = IndexConfig(min_rows=1000, min_ann_recall=0.9)
    table.build_index(config)
    table.tag(1, table.version)
    kept = table.version
    for night in range(6):
        table.upsert(vector_rows([f"night {night}", f"i{night}"], seed=night + 1, dimension=WIDE))
        table.delete([f"i{100 + night}"])
        table.build_index(config)
    dataset = lance.dataset(str(table.path))
    assert len(dataset.get_fragments()) <= 4
    assert len(dataset.describe_indices()[0].segments) <= 2
    assert table.check(config, expected_rows=2000).problems == []
    table.clean_up(range(1, table.version))
    assert lance.dataset(str(table.path), version=kept).count_rows() == 2000
    assert table.check(config, expected_rows=2000).problems == []
