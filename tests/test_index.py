"""The vector index: built, extended, dropped, and measured against exact search."""

from pathlib import Path

import lance
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from pydantic import ValidationError
from vector_rows import unit_vectors, vector_rows

import pairloom.storage.table.check
import pairloom.storage.table.columns
import pairloom.storage.table.index
import pairloom.storage.table.vectors
from pairloom.storage.files import digest_files
from pairloom.storage.schema import ColumnType
from pairloom.storage.table.candidate import indexed_and_checked
from pairloom.storage.table.columns import indexed_columns
from pairloom.storage.table.config import IndexConfig
from pairloom.storage.table.effort import Effort
from pairloom.storage.table.index import (
    INDEX_NAME,
    indexed_kind,
    named_index,
    nearest,
    recall_at_10,
    unindexed_rows,
)
from pairloom.storage.table.upkeep import TableUpkeep
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


def test_poor_recall_is_a_problem(table: VectorTable) -> None:
    table.build_index(IndexConfig(min_rows=1000))
    table.ask(Effort(refine_factor=1, probes=1))
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


def test_many_neighbours_are_found_though_the_later_ones_get_fewer_candidates(table: VectorTable) -> None:
    table.build_index(IndexConfig(min_rows=1000))
    query = unit_vectors(9, 1, WIDE)[0]
    expected = np.argsort(-(unit_vectors(0, 2000, WIDE) @ query))[:300]
    found = nearest(lance.dataset(str(table.path)), query, k=303, spare=3, columns=["item_id"])
    assert len({f"i{at}" for at in expected} & {*found["item_id"].to_pylist()}) >= 297
    assert (Effort().candidates(10, coarse=False), Effort().candidates(300, coarse=False)) == (200, 1_650)
    assert Effort().candidates(300, coarse=True) == 6_000
    # Those that only might be put in front of the first ten get little whatever the index is.
    assert Effort().candidates(300, coarse=True, behind=290) == Effort().candidates(300, coarse=False) == 1_650


def test_filter_is_applied_before_the_search(table: VectorTable) -> None:
    table.build_index(IndexConfig(min_rows=1000))
    dataset = lance.dataset(str(table.path))
    wanted = ["i3", "i777", "i1999"]
    where = "item_id IN ('i3', 'i777', 'i1999')"
    found = nearest(dataset, unit_vectors(9, 1, WIDE)[0], k=10, columns=["item_id"], where=where)
    assert sorted(found["item_id"].to_pylist()) == sorted(wanted)
    assert unindexed_rows(dataset) == 0


def test_filters_find_their_rows_by_the_columns_indexes_night_after_night(
    table: VectorTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pairloom.storage.table.columns, "MAX_SEGMENTS", 3)
    config = IndexConfig(min_rows=1000, min_ann_recall=0.5)
    wheres = ["subgroup IN ('A')", "subgroup IS NULL", "item_id = 'i7'", "source = 's' AND subgroup <> 'B'"]
    table.build_index(config)
    for night in range(4):
        ids = [f"new{night}", f"i{night}", f"i{night + 500}"]
        changed = vector_rows(ids, seed=night + 1, digest=f"{night}", dimension=WIDE)
        values = pa.array(["A", None, "C"], pa.string())
        changed = changed.set_column(changed.schema.get_field_index("subgroup"), "subgroup", values)
        assert table.upsert(changed).updated == 2
        table.delete([f"i{night + 900}"])
        count = 2000
        lacking = table.check(config, expected_rows=count).problems[-1]
        assert lacking.startswith("the index of ")
        assert "subgroup" in lacking
        table.build_index(config)
        assert table.check(config, expected_rows=count).problems == []
        dataset = lance.dataset(str(table.path))
        assert max(len(each.segments) for each in dataset.describe_indices() if each.name == "subgroup_idx") <= 3
        for where in wheres:
            looked_up, read = (
                dataset.scanner(columns=["item_id"], filter=where, use_scalar_index=each) for each in (True, False)
            )
            assert "ScalarIndexQuery" in looked_up.explain_plan()
            assert "ScalarIndexQuery" not in read.explain_plan()
            found = [sorted(scan.to_table()["item_id"].to_pylist()) for scan in (looked_up, read)]
            assert found[0] == found[1], where
    looked_up = dataset.scanner(columns=["item_id"], filter=pc.field("item_id").isin(["i7", "i8"]))
    assert "ScalarIndexQuery" in looked_up.explain_plan()
    names = {each.name for each in dataset.describe_indices()}
    assert {"item_id_idx", "group_idx", "split_idx", "source_idx", "subgroup_idx"} <= names
    assert any(path.relative_to(table.path).parts[0] == "_indices" for path in table.files())
    table.build_index(config.model_copy(update={"columns": False}))
    assert "subgroup_idx" not in {each.name for each in lance.dataset(str(table.path)).describe_indices()}


def test_numbers_and_times_are_found_by_their_indexes_as_by_reading_them(tmp_path: Path) -> None:
    keep: dict[str, ColumnType] = {"price": "float64", "stock": "int64", "seen": "timestamp"}
    table = VectorTable.create_or_open(tmp_path, "m", dimension=WIDE, keep=keep)
    draw, count = np.random.default_rng(0), 1200
    price = draw.normal(20, 30, count).round(1)
    price[::97], price[::101], price[::103], price[::107], price[1::107] = np.nan, np.inf, -np.inf, 0.0, -0.0
    lacking = np.arange(count) % 11 == 0
    seen = pa.array(draw.integers(0, 10**6, count) * 10**6, pa.timestamp("us", "UTC"))
    rows = vector_rows([f"i{at}" for at in range(count)], dimension=WIDE).drop_columns(["subgroup"])
    rows = rows.append_column("price", pa.array(price, mask=lacking))
    rows = rows.append_column("stock", pa.array(draw.integers(-50, 50, count), mask=lacking[::-1]))
    table.upsert(rows.append_column("seen", seen))
    table.build_index(IndexConfig(min_rows=1000, min_ann_recall=0.1))
    dataset = lance.dataset(str(table.path))
    for where in (
        *(f"price {sign} {number}" for sign in ("<", "<=", "=", ">=", ">") for number in (0, 5)),
        "price >= -0.0 AND price <= 30",
        "NOT (price < 5)",
        "price IS NULL",
        "price IN (0, 5)",
        "price > 1e308",
        "price >= 10 AND NOT isnan(price)",
        "stock > 5 AND price < 3",
        "NOT (stock = 3)",
        "seen >= to_timestamp('1970-01-05') AND seen < to_timestamp('1970-01-08')",
    ):
        looked_up, read = (
            dataset.scanner(columns=["item_id"], filter=where, use_scalar_index=each) for each in (True, False)
        )
        assert "ScalarIndexQuery" in looked_up.explain_plan(), where
        found = [sorted(scan.to_table()["item_id"].to_pylist()) for scan in (looked_up, read)]
        assert found[0] == found[1], where


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
    TableUpkeep(table.path).tag(1, table.version)
    kept = table.version
    for night in range(6):
        table.upsert(vector_rows([f"night {night}", f"i{night}"], seed=night + 1, dimension=WIDE))
        table.delete([f"i{100 + night}"])
        table.build_index(config)
    dataset = lance.dataset(str(table.path))
    assert len(dataset.get_fragments()) <= 4
    assert len(named_index(dataset, INDEX_NAME).segments) <= 2
    assert table.check(config, expected_rows=2000).problems == []
    TableUpkeep(table.path).clean_up(range(1, table.version))
    assert lance.dataset(str(table.path), version=kept).count_rows() == 2000
    assert table.check(config, expected_rows=2000).problems == []


def released(folder: Path, table: VectorTable) -> VectorTable:
    """The table, continued from a release of what it holds now."""
    return VectorTable.reopen(folder, "m", table.version, digest_files(folder, table.files(), {}))


def test_a_check_reads_only_what_came_since_the_release_unless_it_is_to_read_all(
    tmp_path: Path, table: VectorTable
) -> None:
    config = IndexConfig(min_rows=1000, min_ann_recall=0.5)
    rows = vector_rows(["damaged"], dimension=WIDE)
    long = pa.FixedSizeListArray.from_arrays(pa.array([2.0] * WIDE, pa.float32()), WIDE)
    table.upsert(rows.set_column(1, "image_vector", long))
    table.build_index(config)
    again = released(tmp_path, table)
    again.upsert(vector_rows(["new"], seed=1, dimension=WIDE))
    again.build_index(config)
    assert again.partly_known
    assert again.check(config, expected_rows=2002).problems == []
    again.check_all()
    assert again.check(config, expected_rows=2002).problems == ["1 vectors hold NaN or aren't of length 1"]
    more = released(tmp_path, again)
    more.upsert(rows.set_column(1, "image_vector", long).set_column(0, "item_id", pa.array(["another"])))
    assert more.check(config, expected_rows=2003).problems == [
        "1 vectors hold NaN or aren't of length 1",
        "1 rows aren't indexed",
        "the words of 1 rows aren't indexed",
        f"the index of {', '.join(indexed_columns(lance.dataset(str(more.path))))} lacks 1 rows",
    ]


def test_recall_by_new_rows_is_that_of_all_where_the_index_finds_the_old_ones(
    tmp_path: Path, table: VectorTable
) -> None:
    config = IndexConfig(min_rows=1000)
    table.build_index(config)
    again = released(tmp_path, table)
    again.upsert(vector_rows([f"new{at}" for at in range(300)], seed=1, dimension=WIDE))
    dataset = lance.dataset(str(table.path))
    new_ND, all_ND = (
        unit_vectors(1, 300, WIDE),
        np.concatenate([unit_vectors(0, 2000, WIDE), unit_vectors(1, 300, WIDE)]),
    )
    queries_QD = new_ND[:40]
    exact_QK, among_new_QK = (-np.sort(-(queries_QD @ some.T))[:, :10] for some in (all_ND, new_ND))
    fragments = [dataset.get_fragments()[-1].fragment_id]

    def recalls() -> tuple[float, float]:
        return recall_at_10(dataset, queries_QD, exact_QK), recall_at_10(dataset, queries_QD, among_new_QK, fragments)

    # Rows that no index covers are searched as well.
    assert recalls() == (1, 1)
    again.build_index(config)
    again.ask(Effort(refine_factor=1, probes=1))
    dataset = lance.dataset(str(table.path))
    of_all, of_new = recalls()
    assert of_all <= of_new < 1


def test_an_index_that_misses_too_much_is_asked_harder_and_readers_ask_the_same(
    tmp_path: Path, table: VectorTable
) -> None:
    config = IndexConfig(kind="ivf_pq", min_rows=1000, min_ann_recall=0.99)
    table.build_index(config)
    table.ask(Effort(refine_factor=1))
    assert table.check(config, expected_rows=2000).ann_recall < 0.99
    found = indexed_and_checked(table, config, expected_rows=2000)
    assert (found.kind, found.check.problems) == ("ivf_pq", [])
    effort = Effort.of(lance.dataset(str(table.path)))
    assert effort.refine_factor == 80
    again = released(tmp_path, table)
    again.upsert(vector_rows(["new"], seed=1, dimension=WIDE))
    assert indexed_and_checked(again, config, expected_rows=2001).check.problems == []
    assert again.partly_known
    assert Effort.of(lance.dataset(str(table.path))) == effort


def test_another_kind_and_then_none_stand_in_for_an_index_that_never_finds_enough(
    tmp_path: Path, table: VectorTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = {"ivf_rq": 0.5, "ivf_hnsw_sq": 0.9}
    measure = recall_at_10
    monkeypatch.setattr(
        pairloom.storage.table.check,
        "recall_at_10",
        lambda dataset, *rest: found.get(str(indexed_kind(dataset)), measure(dataset, *rest)),
    )
    enough = IndexConfig(min_rows=1000, min_ann_recall=0.9)
    assert indexed_and_checked(table, enough, expected_rows=2000).kind == "ivf_hnsw_sq"
    built = table.version
    again = released(tmp_path, table)
    assert indexed_and_checked(again, enough, expected_rows=2000).kind == "ivf_hnsw_sq"
    assert again.version == built
    config = IndexConfig(min_rows=1000, min_ann_recall=0.95)
    exact = indexed_and_checked(again, config, expected_rows=2000)
    assert (exact.kind, exact.check.problems) == (None, [])
    built = again.version
    more = released(tmp_path, again)
    assert indexed_and_checked(more, config, expected_rows=2000).kind is None
    assert more.version == built
    # Twice the rows are another matter.
    found["ivf_rq"] = 1
    more.upsert(vector_rows([f"new{at}" for at in range(2000)], seed=1, dimension=WIDE))
    assert indexed_and_checked(more, config, expected_rows=4000).kind == "ivf_rq"
