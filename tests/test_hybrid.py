"""The full-text index through nights, and hybrid search: words that no model knows are found by keyword."""

from pathlib import Path
from typing import Any

import lance
import pytest
from released_pipeline import HOSTILE, KEEP, MODEL_ID, NAMES, item_rows, publish
from vector_rows import vector_rows

import pairloom
import pairloom.storage.table.vectors
from pairloom.search.fusion import fused
from pairloom.search.index import Index
from pairloom.search.keywords import MAX_CHARACTERS, keyword_rows
from pairloom.search.query import Query
from pairloom.search.release import OpenRelease
from pairloom.storage.files import DamagedError, digest_files
from pairloom.storage.releases import Cutoff
from pairloom.storage.table.config import IndexConfig
from pairloom.storage.table.upkeep import TableUpkeep
from pairloom.storage.table.vectors import VectorTable
from pairloom.storage.table.words import has_words, holding
from pairloom.tasks.training.texts import keep_training_texts


def texts(*own: str) -> list[list[str]]:
    return [[each] for each in own]


def rows(ids: list[str], own: list[list[str]], **changed: Any) -> Any:
    made = vector_rows(ids, **changed)
    return made.set_column(made.schema.get_field_index("texts"), "texts", [own])


def found(table: VectorTable, words: str, k: int = 10) -> list[str]:
    dataset = lance.dataset(str(table.path))
    hits = holding(dataset, words, k=k).sort_by([("_score", "descending"), ("item_id", "ascending")])
    return list(hits["item_id"].to_pylist())


@pytest.fixture
def table(tmp_path: Path) -> VectorTable:
    table = VectorTable.create_or_open(tmp_path, "m", dimension=8, keep={"subgroup": "string"})
    words = texts("a red shoe", "Größe XL", "SKU-17/b", "红色的鞋子", "รองเท้าสีแดง", "don't stop")
    table.upsert(rows(["shoe", "size", "sku", "chinese", "thai", "stop"], words))
    table.build_index(IndexConfig())
    return table


@pytest.mark.parametrize(
    ("words", "item"),
    [
        ("SHOE", "shoe"),
        ("grosse", "size"),
        ("b", "sku"),
        ("sku 17", "sku"),
        ("鞋子", "chinese"),
        ("สีแดง", "thai"),
        ('"stop" AND NOT (shoes*', "stop"),
        ("texts:shoe^2", "shoe"),
    ],
)
def test_words_of_every_writing_are_found_and_no_sign_is_syntax(table: VectorTable, words: str, item: str) -> None:
    assert found(table, words)[0] == item


@pytest.mark.parametrize("words", ["zebra", "!!!", "\0", "👟", "' OR 1=1 --", "a" * 500])
def test_words_that_no_text_holds_find_nothing(table: VectorTable, words: str) -> None:
    assert found(table, words) == []


def test_the_index_follows_what_is_added_changed_removed_and_merged(
    table: VectorTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pairloom.storage.table.vectors, "MAX_FRAGMENTS", 4)
    monkeypatch.setattr(pairloom.storage.table.words, "MAX_SEGMENTS", 3)
    config, expected = IndexConfig(), 6
    table.check(config, expected_rows=6)
    for night in range(8):
        table.upsert(rows([f"n{night}"], texts(f"night number{night}"), seed=night + 1))
        table.upsert(rows(["shoe"], texts(f"a shoe of night{night}"), seed=night + 20))
        expected += 1
        if night == 4:
            table.delete(["n1", "stop"])
            expected -= 2
        assert "the words of 2 rows aren't indexed" in table.check(config, expected_rows=expected).problems
        table.build_index(config)
        assert table.check(config, expected_rows=expected).problems == []
        dataset = lance.dataset(str(table.path))
        assert len(dataset.describe_indices()[0].segments) <= 3
        assert len(dataset.get_fragments()) <= 5
        assert found(table, f"number{night}") == [f"n{night}"]
        assert found(table, "shoe") == found(table, f"night{night}") == ["shoe"]
    assert found(table, "number1") == found(table, "stop") == found(table, "night3") == found(table, "red") == []
    assert sorted(found(table, "night")) == sorted(f"n{night}" for night in range(8) if night != 1)


def test_a_night_adds_a_small_segment_and_leaves_the_others_as_they_are(table: VectorTable) -> None:
    table.upsert(rows([f"i{at}" for at in range(500)], texts(*(f"item number{at}" for at in range(500)))))
    table.build_index(IndexConfig())
    before = {path: path.read_bytes() for path in table.files() if "_indices" in path.parts}
    table.upsert(rows(["new"], texts("zebra")))
    table.build_index(IndexConfig())
    after = {path: path.read_bytes() for path in table.files() if "_indices" in path.parts}
    assert before.items() <= after.items()
    fresh = {path: content for path, content in after.items() if path not in before}
    assert sum(map(len, fresh.values())) < sum(map(len, before.values())) / 2


def test_a_damaged_index_is_not_copied_into_a_merged_one(
    tmp_path: Path, table: VectorTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pairloom.storage.table.words, "MAX_SEGMENTS", 1)
    again = VectorTable.reopen(tmp_path, "m", table.version, digest_files(tmp_path, table.files(), {}))
    again.upsert(rows(["new"], texts("zebra")))
    damaged = next(path for path in table.files() if "_indices" in path.parts)
    content = bytearray(damaged.read_bytes())
    content[len(content) // 2] ^= 1
    damaged.write_bytes(content)
    with pytest.raises(DamagedError, match="_indices"):
        again.build_index(IndexConfig())


def test_the_index_is_dropped_where_the_config_says_so_and_built_where_it_is_missing(table: VectorTable) -> None:
    table.build_index(IndexConfig(full_text=False))
    assert not has_words(lance.dataset(str(table.path)))
    table.build_index(IndexConfig())
    assert found(table, "shoe") == ["shoe"]


def released(folder: Path, *, indexed: bool) -> Index:
    """A release, with a full-text index or, as earlier ones, without; its model never met the words of `rare`."""
    record = publish(folder, names=NAMES)
    table = VectorTable(folder / "vectors" / f"{MODEL_ID}.lance")
    keep_training_texts(folder / "models" / MODEL_ID, OpenRelease(folder, record).encoder, NAMES)
    made = item_rows(OpenRelease(folder, record).encoder, NAMES)
    own = made["texts"].to_pylist()
    own[20].append("qwertyuiop zzz")
    own[21].append("qwertyuiop")
    table.upsert(made.set_column(made.schema.get_field_index("texts"), "texts", [own]))
    table.build_index(IndexConfig(full_text=indexed))
    files = digest_files(folder, table.files(), {})
    kept = {name: each for name, each in record.files.items() if not name.startswith("vectors/")}
    unreached = Cutoff(score=9, corrected=False, max_false_finds=0, queries=40, true_finds=0, false_finds=0)
    changed = {"number": 2, "table_version": table.version, "files": kept | files}
    changed |= {"cutoffs": {"text_to_image": unreached}}
    TableUpkeep(table.path).tag(2, table.version)
    return Index(OpenRelease(folder, record.model_copy(update=changed)))


@pytest.fixture(scope="module", params=[True, False], ids=["indexed", "earlier release"])
def index(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Index:
    return released(tmp_path_factory.mktemp("pipeline"), indexed=request.param)


def ids(result: Any) -> list[str]:
    return [hit.item_id for hit in result.hits]


def test_words_that_the_model_never_met_are_found_by_keyword(index: Index) -> None:
    hits = index.search("qwertyuiop zzz", hybrid=True).hits
    assert hits[0].item_id == NAMES[20]
    assert NAMES[21] in [hit.item_id for hit in hits[:3]]
    assert hits[0].keyword_score is not None
    assert hits[0].fused_score == hits[0].shown_score


def test_what_is_called_as_the_query_says_fits_a_hybrid_search(index: Index) -> None:
    for query, fits in (
        ("Qwertyuiop, ZZZ", {NAMES[20]}),
        ("yonder red qwertyüiop", set()),
        ("red qwertyüiop", {NAMES[20], NAMES[21]}),
        ("Apple, RÉD", {"red apple"}),
        ("apple", set()),
        ("nowhere", set()),
    ):
        found = index.search(query, k=46, hybrid=True)
        assert {hit.item_id for hit in found.hits if hit.fits} == fits
        only = index.search(query, k=46, hybrid=True, only_fitting=True)
        assert ids(only) == [hit.item_id for hit in found.hits if hit.fits]
        assert {hit.fits for hit in index.search(query, k=46).hits} == {None}


def test_hybrid_hits_are_both_rankings_fused(index: Index) -> None:
    for query in ("red apple", "a picture of a pear", *HOSTILE):
        near = ids(index.search(query, k=46))
        words = keyword_rows(index.current, query, k=46, columns=["item_id"])["item_id"].to_pylist()
        hits = index.search(query, k=46, hybrid=True).hits
        expected = fused([near, words])
        assert [hit.item_id for hit in hits] == list(expected)
        assert [hit.fused_score for hit in hits] == list(expected.values())
        cosine = {hit.item_id: hit.score for hit in index.search(query, k=46).hits}
        assert [hit.score for hit in hits] == pytest.approx([cosine[hit.item_id] for hit in hits], abs=2e-6)


def test_items_found_by_keyword_alone_join_the_nearest(index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pairloom.search.query.POOL", 5)
    hits = index.search("zzz", k=40, hybrid=True).hits
    assert hits[0].item_id == NAMES[20]
    cosine = {hit.item_id: hit.score for hit in index.search("zzz", k=46).hits}
    assert hits[0].score == pytest.approx(cosine[NAMES[20]], abs=2e-6)
    assert len({hit.item_id for hit in hits}) == 40
    pages = [item for offset in range(0, 46, 9) for item in ids(index.search("zzz", k=9, offset=offset, hybrid=True))]
    assert pages == ids(index.search("zzz", k=46, hybrid=True))


@pytest.mark.parametrize(
    "options",
    [{"where": "subgroup = 'Apple'"}, {"target": "text"}, {"metric": "euclidean"}, {"diversity": 0.3}, {"k": 1}],
)
def test_hybrid_goes_with_the_other_options(index: Index, options: dict[str, Any]) -> None:
    found = index.search("red apple", hybrid=True, **options)
    assert found.hits
    assert found.to_arrow().num_rows == len(found.hits)
    if "where" in options:
        assert {hit.metadata["subgroup"] for hit in found.hits} == {"Apple"}


def test_the_item_that_is_asked_with_is_no_hit_and_the_texts_of_plus_are_words(index: Index) -> None:
    hits = ids(index.search(like=NAMES[0], plus=["3:qwertyuiop"], hybrid=True, k=100))
    assert NAMES[0] not in hits
    assert {NAMES[20], NAMES[21]} <= set(hits[:4])


def test_hybrid_search_without_words_is_refused_in_one_line(index: Index) -> None:
    refused: list[dict[str, Any]] = [{"like": NAMES[0]}, {"text": "x" * (MAX_CHARACTERS + 1)}]
    for asked in refused:
        with pytest.raises(ValueError, match="hybrid search") as error:
            index.search(hybrid=True, **asked)
        assert "\n" not in str(error.value)


def test_a_condition_is_as_safe_beside_keywords(index: Index) -> None:
    with pytest.raises(ValueError, match="is not a filter"):
        index.search("red", hybrid=True, where="1 = 1; DROP TABLE items")


def test_plain_lancedb_reads_both_indexes(tmp_path: Path) -> None:
    index = released(tmp_path, indexed=True)
    assert index.table.search("red apple").distance_type("cosine").limit(3).to_list()
    words = index.table.search("qwertyuiop zzz", query_type="fts").limit(3).to_list()
    assert words[0]["item_id"] == NAMES[20]
    assert set(KEEP) <= set(words[0])
    assert Query("red").words == "red"
