"""The vector table: upsert, delete, check, tags, files."""

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lance
import numpy as np
import pyarrow as pa
import pytest
from child_processes import running, wait_until
from PIL import Image
from vector_rows import D, vector_rows

import pairloom.storage.table.index
import pairloom.storage.table.vectors
from pairloom.storage.files import DamagedError, FileDigests, damage, digest_files
from pairloom.storage.images.stored_image import thumbnail
from pairloom.storage.records import StaleWriterError
from pairloom.storage.table.config import IndexConfig
from pairloom.storage.table.manifests import manifest_path
from pairloom.storage.table.upkeep import TableUpkeep
from pairloom.storage.table.vectors import VectorTable
from pairloom.storage.table.versions import held_versions, release_of, stored_versions

HOSTILE = ["'; DROP TABLE items; --", "a' OR '1'='1", 'quo"te', "back`tick", "ünïcödé 🍎", "%", "_", "\\"]
EXACT = IndexConfig(kind="none")


@pytest.fixture
def table(tmp_path: Path) -> VectorTable:
    return VectorTable.create_or_open(tmp_path, "model-a", dimension=D, keep={"subgroup": "string"})


def ids_of(table: VectorTable) -> list[str]:
    ids: list[str] = sorted(table.items()["item_id"].to_pylist())
    return ids


def test_upsert_inserts_new_rows_and_replaces_known_ones(table: VectorTable) -> None:
    first = table.upsert(vector_rows(["a", "b", "c"]))
    assert (first.inserted, first.updated) == (3, 0)
    second = table.upsert(vector_rows(["b", "c", "d"], digest="second"))
    assert (second.inserted, second.updated) == (1, 2)
    found = dict(zip(*(table.items()[name].to_pylist() for name in ("item_id", "content_digest")), strict=True))
    assert found == {"a": "first", "b": "second", "c": "second", "d": "second"}


def test_upsert_takes_a_reader_and_commits_in_pieces(table: VectorTable, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pairloom.storage.table.vectors, "ROWS_PER_COMMIT", 4)
    before = table.version
    done = table.upsert(vector_rows([f"i{at}" for at in range(10)]).to_reader(max_chunksize=2))
    assert done.inserted == 10
    assert table.version == before + 3
    assert table.check(EXACT, expected_rows=10).problems == []


def test_upsert_refuses_an_item_id_that_comes_twice(table: VectorTable, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="'a' comes twice"):
        table.upsert(vector_rows(["a", "b", "a"]))
    assert ids_of(table) == []
    monkeypatch.setattr(pairloom.storage.table.vectors, "ROWS_PER_COMMIT", 2)
    with pytest.raises(ValueError, match="'a' comes twice"):
        table.upsert(vector_rows(["a", "b", "c", "a"]))
    assert ids_of(table) == ["a", "b"]


def test_upsert_refuses_rows_that_do_not_fit(table: VectorTable) -> None:
    with pytest.raises(ValueError, match="rows have columns"):
        table.upsert(vector_rows(["a"]).drop_columns(["split"]))
    with pytest.raises(ValueError, match="don't fit"):
        table.upsert(vector_rows(["a"], dimension=D + 1))


def test_upsert_of_nothing_changes_nothing(table: VectorTable) -> None:
    before = table.version
    assert table.upsert(vector_rows([])).inserted == 0
    assert table.version == before


def test_a_handle_is_stale_once_another_one_has_written(tmp_path: Path, table: VectorTable) -> None:
    other = VectorTable(tmp_path / "vectors" / "model-a.lance")
    table.upsert(vector_rows(["a", "b"]))
    for write in (
        lambda: other.upsert(vector_rows(["a", "b", "c"])),
        lambda: other.delete(["a"]),
        lambda: other.build_index(EXACT),
    ):
        with pytest.raises(StaleWriterError, match="another run or program"):
            write()
    assert ids_of(VectorTable(table.path)) == ["a", "b"]
    assert VectorTable(table.path).upsert(vector_rows(["a", "b", "c"])).updated == 2


@pytest.mark.parametrize("step", ["upsert", "delete"])
def test_a_version_made_while_rows_are_written_makes_the_writer_stale(
    step: str, table: VectorTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    table.upsert(vector_rows(["a"]))
    first = table.version
    table.upsert(vector_rows(["b"]))

    def go_back(point: str, path: Path) -> None:
        if point == f"{step}.before":
            lance.dataset(str(path), version=first).restore()

    monkeypatch.setattr(pairloom.storage.table.vectors, "hit", go_back)
    with pytest.raises(StaleWriterError, match="run again"):
        table.upsert(vector_rows(["a", "b"])) if step == "upsert" else table.delete(["a"])


def test_killed_upsert_run_again_loses_and_doubles_nothing(tmp_path: Path) -> None:
    program = """
import sys, time
from pathlib import Path
from pairloom.storage.table import vectors
from vector_rows import D, vector_rows
vectors.ROWS_PER_COMMIT = 10
table = vectors.VectorTable.create_or_open(Path(sys.argv[1]), "m", dimension=D, keep={"subgroup": "string"})
table.upsert(vector_rows([f"i{at}" for at in range(100_000)]).to_reader(max_chunksize=10))
"""
    path = [str(Path(__file__).parent), str(Path(__file__).parents[1])]
    versions = tmp_path / "vectors" / "m.lance" / "_versions"
    with running("-c", f"import sys; sys.path[:0] = {path!r}\n{program}", str(tmp_path)) as child:
        wait_until(lambda: len(list(versions.glob("*.manifest"))) >= 5, child)
        child.kill()
    table = VectorTable.create_or_open(tmp_path, "m", dimension=D, keep={"subgroup": "string"})
    written = len(ids_of(table))
    assert 30 <= written < 100_000
    ids = [f"i{at}" for at in range(written + 50)]
    done = table.upsert(vector_rows(ids))
    assert (done.inserted, done.updated) == (50, written)
    assert ids_of(table) == sorted(ids)
    assert table.check(EXACT, expected_rows=len(ids)).problems == []


def test_table_whose_creation_was_killed_is_made_anew(tmp_path: Path) -> None:
    (tmp_path / "vectors" / "m.lance" / "data").mkdir(parents=True)
    (tmp_path / "vectors" / "m.lance" / "data" / "torn.lance").write_bytes(b"half")
    table = VectorTable.create_or_open(tmp_path, "m", dimension=D, keep={"subgroup": "string"})
    assert table.upsert(vector_rows(["a"])).inserted == 1


def test_hostile_ids_are_kept_and_deleted_exactly(table: VectorTable) -> None:
    table.upsert(vector_rows([*HOSTILE, "kept"]))
    assert ids_of(table) == sorted([*HOSTILE, "kept"])
    for at, hostile in enumerate(HOSTILE):
        assert table.delete([hostile, "not there"]) == 1
        assert ids_of(table) == sorted([*HOSTILE[at + 1 :], "kept"])


def test_delete_removes_many_rows_in_pieces(table: VectorTable, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pairloom.storage.table.vectors, "IDS_PER_DELETE", 3)
    ids = [f"i{at}" for at in range(10)]
    table.upsert(vector_rows(ids))
    assert table.delete(ids[:8]) == 8
    assert table.delete(ids[:8]) == 0
    assert ids_of(table) == ids[8:]


def test_a_table_begun_anew_leaves_released_versions_as_they_were(tmp_path: Path, table: VectorTable) -> None:
    ids = [f"i{at}" for at in range(1500)]
    table.upsert(vector_rows(ids))
    table.build_index(IndexConfig(min_rows=1000))
    TableUpkeep(table.path).tag(1, released := table.version)
    begun = VectorTable.create(tmp_path, "model-a", dimension=D, keep={"price": "float64", "tags": "list<string>"})
    rows = vector_rows(ids[:10]).drop_columns(["subgroup"])
    rows = rows.append_column("price", pa.array([1.5] * 10)).append_column("tags", pa.array([["a"]] * 10))
    assert begun.upsert(rows).inserted == 10
    assert begun.build_index(IndexConfig()) is None
    assert begun.check(EXACT, expected_rows=10).problems == []
    latest = lance.dataset(str(table.path))
    assert latest.to_table(columns=["price"])["price"].to_pylist() == [1.5] * 10
    assert set(latest.schema.metadata) == {b"embedding_functions"}
    TableUpkeep(begun.path).clean_up(range(1, begun.version))
    old = lance.dataset(str(table.path), version=released)
    assert set(old.to_table()["subgroup"].to_pylist()) == {"A", "B"}
    assert old.count_rows() == 1500


def test_check_names_what_is_wrong(table: VectorTable) -> None:
    rows = vector_rows(["a", "b", "c", "d"])
    bad = np.stack([row.as_py() for row in rows["image_vector"]])
    bad[0], bad[1] = np.nan, bad[1] * 2
    bad_vectors = pa.FixedSizeListArray.from_arrays(pa.array(bad.ravel(), pa.float32()), D)
    rows = rows.set_column(1, "image_vector", bad_vectors)
    short = [each.as_py() for each in rows["text_vector"]]
    short[2] = short[2][:3]
    rows = rows.set_column(2, "text_vector", pa.array(short, pa.list_(pa.float32())))
    table.upsert(rows)
    lance.write_dataset(vector_rows(["d"]).cast(lance.dataset(str(table.path)).schema), str(table.path), mode="append")
    found = VectorTable(table.path).check(EXACT, expected_rows=4)
    assert (found.rows, found.duplicate_ids, found.bad_vectors) == (5, 1, 3)
    assert found.problems == [
        "5 rows, expected 4",
        "1 rows repeat an item_id",
        "3 vectors hold NaN or aren't of length 1",
    ]


def test_check_of_an_empty_table_finds_nothing_wrong(table: VectorTable) -> None:
    assert table.check(EXACT, expected_rows=0).problems == []


def test_tagged_version_outlives_clean_up(table: VectorTable) -> None:
    table.upsert(vector_rows(["a"]))
    TableUpkeep(table.path).tag(1, table.version)
    kept = table.version
    table.upsert(vector_rows(["b"]))
    dropped = table.version
    table.delete(["a"])
    TableUpkeep(table.path).clean_up(range(1, table.version))
    assert lance.dataset(str(table.path), version=kept).count_rows() == 1
    with pytest.raises(ValueError, match="not found"):
        lance.dataset(str(table.path), version=dropped)
    assert [TableUpkeep(table.path).untag([f"release-000001-v{kept}"]) for _ in range(2)] == [1, 0]
    TableUpkeep(table.path).clean_up(range(1, table.version))
    with pytest.raises(ValueError, match="not found"):
        lance.dataset(str(table.path), version=kept)
    assert ids_of(table) == ["b"]


def test_two_runs_that_want_to_be_one_release_hold_a_version_each(table: VectorTable) -> None:
    TableUpkeep(table.path).tag(7, won := table.version)
    table.upsert(vector_rows(["a"]))
    TableUpkeep(table.path).tag(7, lost := table.version)
    TableUpkeep(table.path).tag(7, lost)
    table.upsert(vector_rows(["b"]))
    TableUpkeep(table.path).clean_up(range(1, table.version))
    assert [lance.dataset(str(table.path), version=version).count_rows() for version in (won, lost)] == [0, 1]


def test_the_tags_named_are_let_go_those_of_older_versions_of_pairloom_too(table: VectorTable) -> None:
    for release in (1, 2, 3, 12):
        TableUpkeep(table.path).tag(release, table.version)
    tags = lance.dataset(str(table.path)).tags
    tags.create("release-000002", table.version)
    tags.create("mine", table.version)
    assert held_versions(table.path) == dict.fromkeys(tags.list(), table.version)
    ours = [tag for tag in tags.list() if (release_of(tag) or 12) <= 3]
    assert TableUpkeep(table.path).untag([*ours, "release-000077-v1"]) == 4
    assert sorted(tags.list()) == ["mine", f"release-000012-v{table.version}"]


@pytest.mark.parametrize(
    ("old", "new"), [(b"{", b"z"), (b'"version": 1', b'"version": 2'), (b"version", b"vershon")], ids=str
)
def test_a_damaged_tag_is_made_anew_from_its_name(
    table: VectorTable, old: bytes, new: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    TableUpkeep(table.path).tag(3, table.version)
    table.upsert(vector_rows(["a"]))
    TableUpkeep(table.path).tag(4, table.version)
    table.upsert(vector_rows(["b"]))
    file = table.path / "_refs" / "tags" / "release-000003-v1.json"
    assert old in file.read_bytes()
    file.write_bytes(file.read_bytes().replace(old, new))
    assert TableUpkeep(table.path).untag([]) == 0
    assert "release-000003-v1 of model-a.lance is damaged" in caplog.text
    TableUpkeep(table.path).clean_up(range(1, table.version))
    assert [lance.dataset(str(table.path), version=version).count_rows() for version in (1, 2)] == [0, 1]
    TableUpkeep(table.path).tag(5, table.version)
    assert TableUpkeep(table.path).untag(["release-000003-v1", "release-000004-v2"]) == 2


def test_files_are_all_that_a_version_needs(tmp_path: Path, table: VectorTable) -> None:
    table.upsert(vector_rows([f"i{at}" for at in range(2000)]))
    table.build_index(IndexConfig(min_rows=1000))
    table.upsert(vector_rows(["i1", "new"], seed=1))
    table.delete(["i2"])
    table.build_index(IndexConfig(min_rows=1000))
    table.sync({})
    files = digest_files(tmp_path, table.files(), {})
    kinds = {Path(name).parent.name for name in files}
    assert {"_versions", "data", "_deletions"} < kinds
    assert any("_indices" in name for name in files)
    assert damage(tmp_path, files, contents=True) == []
    # The proof: a copy of these files alone is a table that reads and searches.
    for name in files:
        target = tmp_path / "copy" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes((tmp_path / name).read_bytes())
    copy = VectorTable(tmp_path / "copy" / "vectors" / "model-a.lance")
    assert copy.check(IndexConfig(), expected_rows=2000).problems == []


def test_new_version_shares_the_digests_of_old_files(tmp_path: Path, table: VectorTable) -> None:
    table.upsert(vector_rows(["a"]))
    before = digest_files(tmp_path, table.files(), {})
    table.upsert(vector_rows(["b"]))
    after = digest_files(tmp_path, table.files(), before)
    shared = [name for name in after if name in before]
    assert any("/data/" in name for name in shared)
    assert digest_files(tmp_path, table.files(), {}) == after


def test_thumbnail_is_small_and_keeps_its_shape() -> None:
    out = io.BytesIO()
    Image.effect_noise((640, 320), 80).convert("RGB").save(out, "PNG")
    small = thumbnail(out.getvalue())
    assert len(small) < 20_000
    assert Image.open(io.BytesIO(small)).size == (96, 48)


def released(folder: Path, table: VectorTable) -> tuple[int, FileDigests]:
    """The table's version, tagged as a release's, and the digests that a record would hold of it."""
    TableUpkeep(table.path).tag(1, table.version)
    return table.version, digest_files(folder, table.files(), {})


def contents(table: VectorTable) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = lance.dataset(str(table.path), version=table.version).to_table().to_pylist()
    return sorted(rows, key=lambda row: str(row["item_id"]))


def permute_vectors(path: str) -> None:
    rows = lance.dataset(path).to_table()
    order = list(reversed(range(rows.num_rows)))
    rows = rows.set_column(1, rows.schema.field(1), rows["image_vector"].take(order))
    lance.dataset(path).merge_insert("item_id").when_matched_update_all().execute(rows)


def empty_newest_manifest(path: str) -> None:
    lance.dataset(path).insert(lance.dataset(path).to_table().slice(0, 1))
    newest = min((Path(path) / "_versions").glob("*.manifest"))
    newest.write_bytes(b"")


FOREIGN = {
    "permuted vectors": permute_vectors,
    "deleted rows": lambda path: lance.dataset(path).delete("item_id < 'i5'"),
    "doubled rows": lambda path: lance.dataset(path).insert(lance.dataset(path).to_table()),
    "an added column": lambda path: lance.dataset(path).add_columns({"evil": "1"}),
    "a dropped column": lambda path: lance.dataset(path).drop_columns(["texts"]),
    "other metadata": lambda path: lance.dataset(path).update_schema_metadata({"pairloom_index": "{}", "x": "y"}),
    "a dropped index": lambda path: lance.dataset(path).drop_index("image_vector_idx"),
    "an overwritten table": lambda path: lance.write_dataset(vector_rows(["z"]), path, mode="overwrite"),
    "an emptied manifest": empty_newest_manifest,
}


@pytest.mark.parametrize("write", FOREIGN.values(), ids=FOREIGN)
def test_what_others_wrote_since_the_release_has_no_effect(
    tmp_path: Path, table: VectorTable, write: Callable[[str], object]
) -> None:
    table.upsert(vector_rows([f"i{at}" for at in range(1000)]))
    table.build_index(IndexConfig(min_rows=1000))
    before, schema = contents(table), lance.dataset(str(table.path)).schema
    version, files = released(tmp_path, table)
    write(str(table.path))
    taken = len(list((table.path / "_versions").glob("*.manifest")))
    again = VectorTable.reopen(tmp_path, "model-a", version, files)
    assert again.version > taken
    again.upsert(vector_rows(["new"]))
    again.build_index(IndexConfig(min_rows=1000))
    latest = lance.dataset(str(table.path))
    assert (latest.version, latest.schema, latest.schema.metadata) == (again.version, schema, schema.metadata)
    assert again.check(IndexConfig(min_rows=1000, min_ann_recall=0.5), expected_rows=1001).problems == []
    assert [row for row in contents(again) if row["item_id"] != "new"] == before
    assert lance.dataset(str(table.path), version=version).count_rows() == 1000


def test_a_table_that_nobody_touched_is_continued_as_it_is(tmp_path: Path, table: VectorTable) -> None:
    table.upsert(vector_rows(["a"]))
    version, files = released(tmp_path, table)
    assert VectorTable.reopen(tmp_path, "model-a", version, files).version == version


def test_the_number_of_a_version_that_was_lost_is_not_given_to_other_rows(tmp_path: Path, table: VectorTable) -> None:
    table.upsert(vector_rows(["a"]))
    version, files = released(tmp_path, table)
    for other in ("b", "c"):
        table.upsert(vector_rows([other]))
        manifest_path(table.path, table.version).write_bytes(b"torn")
        table = VectorTable.reopen(tmp_path, "model-a", version, files)
    assert (version, table.version) == (2, 6)
    assert ids_of(table) == ["a"]
    with pytest.raises(ValueError, match="not found"):
        lance.dataset(str(table.path), version=3)
    TableUpkeep(table.path).clean_up(range(1, table.version))
    assert ids_of(VectorTable(table.path)) == ["a"]


def test_a_released_version_that_cannot_be_opened_is_not_continued(tmp_path: Path, table: VectorTable) -> None:
    table.upsert(vector_rows(["a"]))
    version, files = released(tmp_path, table)
    manifest_path(table.path, version).write_bytes(b"")
    with pytest.raises(DamagedError, match=f"version {version} of .* can't be opened"):
        VectorTable.reopen(tmp_path, "model-a", version, files)
    assert VectorTable.create(tmp_path, "model-a", dimension=D, keep={}).version > version


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("kind", "setting"), [("data", "MAX_FRAGMENTS"), ("_indices", "MAX_FRAGMENTS"), ("_indices", "MAX_SEGMENTS")]
)
def test_bytes_of_a_damaged_file_are_not_copied_into_a_new_one(
    tmp_path: Path, table: VectorTable, monkeypatch: pytest.MonkeyPatch, kind: str, setting: str
) -> None:
    module = pairloom.storage.table.vectors if setting == "MAX_FRAGMENTS" else pairloom.storage.table.index
    config = IndexConfig(min_rows=1000)
    table.upsert(vector_rows([f"i{at}" for at in range(1000)]))
    table.build_index(config)
    version, files = released(tmp_path, table)
    flip(max((table.path / kind).rglob("*.*"), key=lambda path: path.stat().st_size))
    again = VectorTable.reopen(tmp_path, "model-a", version, files)
    again.upsert(vector_rows(["new"]))
    again.build_index(config)
    assert again.check(config, expected_rows=1001).unindexed_rows == 0
    again.upsert(vector_rows(["newer"]))
    monkeypatch.setattr(module, setting, 1)
    with pytest.raises(DamagedError, match=f"{kind}/.* has other contents than recorded"):
        again.build_index(config)


@pytest.mark.parametrize("kind", ["_versions", "_deletions"])
def test_what_the_next_version_takes_over_is_read_through_first(tmp_path: Path, table: VectorTable, kind: str) -> None:
    table.upsert(vector_rows(["a", "b", "c"]))
    table.delete(["b"])
    version, files = released(tmp_path, table)
    (name,) = [name for name in files if f"/{kind}/" in name]
    # Lance ignores what this says of a file.
    files[name] = files[name].model_copy(update={"sha256": "0" * 64})
    with pytest.raises(DamagedError, match=f"{kind}/.* has other contents than recorded"):
        VectorTable.reopen(tmp_path, "model-a", version, files)


def test_what_was_written_is_read_back(table: VectorTable, monkeypatch: pytest.MonkeyPatch) -> None:
    insert = lance.LanceDataset.insert

    def damaging(dataset: lance.LanceDataset, rows: pa.Table, *, mode: str) -> None:
        vectors = rows["image_vector"].take(list(reversed(range(rows.num_rows))))
        insert(dataset, rows.set_column(1, rows.schema.field(1), vectors), mode=mode)

    monkeypatch.setattr(lance.LanceDataset, "insert", damaging)
    with pytest.raises(DamagedError, match="read back otherwise"):
        table.upsert(vector_rows(["a", "b"]))


def test_damaged_latest_version_is_named(table: VectorTable) -> None:
    table.upsert(vector_rows(["a"]))
    table.upsert(vector_rows(["b"]))
    manifest_path(table.path, 3).write_bytes(b"")
    with pytest.raises(ValueError, match=r"the latest version of .*model-a\.lance can't be opened"):
        VectorTable(table.path)
    assert ids_of(VectorTable(table.path, version=2)) == ["a"]


def test_what_killed_writers_leave_and_what_old_versions_alone_need_is_known(table: VectorTable) -> None:
    table.upsert(vector_rows(["a"]))
    table.delete(["a"])
    table.upsert(vector_rows(["b"]))
    assert sorted(stored_versions(table.path)) == list(range(1, table.version + 1))
    assert TableUpkeep(table.path).orphans() == []
    (orphan := table.path / "data" / "never-committed.lance").write_bytes(b"x")
    assert TableUpkeep(table.path).orphans() == [orphan]
    before = {path for path in table.path.rglob("*") if path.is_file()}
    old = range(1, table.version)
    gone = TableUpkeep(table.path).files_of_none_but(old)
    TableUpkeep(table.path).clean_up(old)
    assert before - {path for path in table.path.rglob("*") if path.is_file()} == set(gone)
    assert [*stored_versions(table.path)] == [table.version]
    assert ids_of(table) == ["b"]
