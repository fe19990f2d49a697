"""LanceDB tables as a source: row for row what lancedb wrote, at any version, nothing beside the table."""

from pathlib import Path
from typing import Any

import lance
import lance.blob
import lancedb
import pyarrow as pa
import pytest
from pictures import image_bytes, outcomes, picture, pictures, read_rows, rejections

from pairloom.storage.images.config import IngestConfig
from pairloom.storage.images.decoding import decode
from pairloom.storage.images.stored_image import RejectedImage
from pairloom.storage.sources.columns import ColumnsConfig
from pairloom.storage.sources.config import LanceSource
from pairloom.storage.sources.lance import lance_rows

STRUCT = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def rows_of(contents: list[bytes], start: int = 0) -> pa.Table:
    numbers = range(start, start + len(contents))
    return pa.table(
        {
            "id": list(numbers),
            "image": contents,
            "text": [f"text {each}" for each in numbers],
            "vector": [[0.5]] * len(contents),
        }
    )


def database(tmp_path: Path, content: pa.Table, table: str = "shop") -> Any:
    # Characters that a path's percent-encoded twin would have otherwise.
    return lancedb.connect(tmp_path / "dä ta#1").create_table(table, content)


def source(tmp_path: Path, **settings: Any) -> LanceSource:
    return LanceSource(path=tmp_path / "dä ta#1", **settings)


def test_what_lancedb_writes_is_read_row_for_row(tmp_path: Path) -> None:
    contents = pictures(70)
    table = database(tmp_path, rows_of(contents[:40]))
    table.add(rows_of(contents[40:], 40))
    columns = ColumnsConfig(id="id", keep={"number": {"column": "id", "type": "int64"}})
    for each in (
        source(tmp_path),
        source(tmp_path, table="shop"),
        LanceSource(path=tmp_path / "dä ta#1" / "shop.lance"),
    ):
        rows = read_rows(each, columns)
        assert [image_bytes(row) for row in rows] == contents
        assert [row.item_id for row in rows] == [str(number) for number in range(70)]
        assert [row.texts for row in rows] == [(f"text {number}",) for number in range(70)]
        assert rows[41].image_path == "shop.lance#42"
    kept = [row for row in outcomes(source(tmp_path, where="id BETWEEN 39 AND 41"), columns) if row != "where"]
    assert kept == ["text 39", "text 40", "text 41"]


def test_a_version_is_read_as_it_was(tmp_path: Path) -> None:
    table = database(tmp_path, rows_of(pictures(3)))
    table.delete("id = 1")
    table.update(where="id = 2", values={"text": "changed"})
    assert sorted(outcomes(source(tmp_path))) == ["changed", "text 0"]
    rows = read_rows(source(tmp_path, version=1))
    assert [row.texts[0] for row in rows] == ["text 0", "text 1", "text 2"]
    assert [image_bytes(row) for row in rows] == pictures(3)
    with pytest.raises(ValueError, match="has no version 9: it holds 1 to 3"):
        outcomes(source(tmp_path, version=9))


def test_images_behind_deleted_rows_are_their_own(tmp_path: Path) -> None:
    contents = [picture(number) for number in range(100)]
    database(tmp_path, rows_of(contents)).delete("id % 3 = 0")
    rows = read_rows(source(tmp_path), ColumnsConfig(id="id"))
    assert [(row.item_id, image_bytes(row)) for row in rows] == [
        (str(number), contents[number]) for number in range(100) if number % 3
    ]


def test_only_what_is_written_anew_has_another_version(tmp_path: Path) -> None:
    table = database(tmp_path, rows_of([picture(number) for number in range(4)]))
    before = {row.item_id: row.image for row in read_rows(source(tmp_path), ColumnsConfig(id="id"))}
    table.add(rows_of([picture(9)], 9))
    table.delete("id = 0")
    table.update(where="id = 3", values={"image": picture(7)})
    rows = {row.item_id: row for row in read_rows(source(tmp_path), ColumnsConfig(id="id"))}
    same = [
        name
        for name, row in rows.items()
        if name in before and (row.image.key, row.image.version) == (before[name].key, before[name].version)
    ]
    assert sorted(map(str, rows)) == ["1", "2", "3", "9"]
    assert same == ["1", "2"]
    assert image_bytes(rows["3"]) == picture(7)


def test_images_may_be_structs_or_paths(tmp_path: Path) -> None:
    cells = pa.array([{"bytes": picture(1), "path": "x.png"}, {"bytes": picture(2), "path": None}, None], STRUCT)
    database(tmp_path, pa.table({"image": cells, "text": ["a", "b", "c"]}))
    rows = read_rows(source(tmp_path))
    assert [(image_bytes(row), row.image_path) for row in rows[:2]] == [
        (picture(1), "x.png"),
        (picture(2), "shop.lance#2"),
    ]
    (_, found) = next(decode([(0, rows[2].image.origin)], IngestConfig(workers=1)))
    assert isinstance(found, RejectedImage)
    assert found.reason == "image-missing"
    (tmp_path / "a.png").write_bytes(picture(5))
    database(tmp_path, pa.table({"image": ["a.png", "../a.png", None], "text": ["a", "b", "c"]}), "paths")
    named = source(tmp_path, table="paths", base=tmp_path)
    assert outcomes(named) == ["a", "image-outside-base", "image-missing"]


@pytest.mark.parametrize("version", ["2.0", "2.2"])
def test_blobs_are_read_and_those_elsewhere_refused(tmp_path: Path, version: str) -> None:
    (tmp_path / "secret.png").write_bytes(picture(66))
    contents: list[Any] = [picture(1), None, picture(2)]
    path = tmp_path / "blobs.lance"
    if version == "2.0":
        field = pa.field("image", pa.large_binary(), metadata={"lance-encoding:blob": "true"})
        content = pa.table(
            [pa.array(contents, pa.large_binary()), ["a", "b", "c"]], pa.schema([field, ("text", pa.string())])
        )
        lance.write_dataset(content, str(path), data_storage_version=version)
        expected = ["a", "image-missing", "c"]
    else:
        blobs = lance.blob.blob_array([*contents, (tmp_path / "secret.png").as_uri()])
        schema = pa.schema([lance.blob.blob_field("image"), ("text", pa.string())])
        content = pa.table([blobs, ["a", "b", "c", "d"]], schema)
        lance.write_dataset(content, str(path), data_storage_version=version, allow_external_blob_outside_bases=True)
        expected = ["a", "image-missing", "c", "image-missing"]
    blobbed = LanceSource(path=path)
    assert outcomes(blobbed) == expected
    good = [row for row in lance_rows(blobbed, blobbed.paths[0], "image") if row.image is not None]
    assert [row.image.origin() for row in good if row.image and callable(row.image.origin)] == [picture(1), picture(2)]
    if version == "2.2":
        assert "is kept outside of the table, at file://" in rejections(blobbed)[1].message


def test_a_table_that_names_files_elsewhere_is_refused(tmp_path: Path) -> None:
    database(tmp_path, rows_of(pictures(2)))
    whole = lance.dataset(str(tmp_path / "dä ta#1" / "shop.lance"))
    whole.tags.create("one", 1)
    whole.shallow_clone(str(tmp_path / "clone.lance"), "one")
    with pytest.raises(ValueError, match=r"clone.lance names files outside of it"):
        outcomes(LanceSource(path=tmp_path / "clone.lance"))


def test_a_damaged_fragment_costs_its_own_rows(tmp_path: Path) -> None:
    table = database(tmp_path, rows_of([picture(number) for number in range(3)]))
    first = set((tmp_path / "dä ta#1" / "shop.lance" / "data").iterdir())
    table.add(rows_of([picture(9)], 9))
    (data,) = first
    data.write_bytes(data.read_bytes()[: data.stat().st_size // 2])
    assert outcomes(source(tmp_path)) == ["malformed-row"] * 3 + ["text 9"]
    assert [row.number for row in rejections(source(tmp_path))] == [1, 2, 3]


def test_a_manifest_that_lance_panics_over_is_one_line(tmp_path: Path) -> None:
    database(tmp_path, rows_of(pictures(2)))
    (manifest,) = (tmp_path / "dä ta#1" / "shop.lance" / "_versions").glob("*.manifest")
    content = manifest.read_bytes()
    # Where the manifest starts stands in front of the version and the magic number.
    manifest.write_bytes(content[:-16] + (2**40).to_bytes(8, "little") + content[-8:])
    with pytest.raises(ValueError, match=r"can't be read as a Lance table: [^\n]*$"):
        outcomes(source(tmp_path))
    manifest.write_bytes((2**31).to_bytes(4, "little") + content[4:])
    with pytest.raises(ValueError, match=r"can't be read as a Lance table: [^\n]*$"):
        outcomes(source(tmp_path))


def test_a_table_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"source .*: there is no folder of a table or database"):
        outcomes(source(tmp_path))
    database(tmp_path, rows_of(pictures(1)))
    database(tmp_path, rows_of(pictures(1)), "other")
    with pytest.raises(ValueError, match="name one with `table`; it holds other, shop"):
        outcomes(source(tmp_path))
    with pytest.raises(ValueError, match=r"there is no table \.\./x; it holds other, shop"):
        outcomes(source(tmp_path, table="../x"))
    (tmp_path / "a.lance").mkdir()
    with pytest.raises(ValueError, match=r"can't be read as a Lance table: [^\n]*$"):
        outcomes(LanceSource(path=tmp_path / "a.lance"))
