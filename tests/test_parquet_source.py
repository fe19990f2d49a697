"""Parquet as a source: row for row what other libraries wrote, damage kept to its own rows, images read when asked."""

import datetime as dt
import itertools
import json
import threading
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, Image, Value, concatenate_datasets
from pictures import image_bytes, outcomes, picture, pictures, read_rows, rejections

from pairloom.storage.corpus import Corpus
from pairloom.storage.images.config import IngestConfig
from pairloom.storage.images.decoding import decode
from pairloom.storage.images.location import NoImageError
from pairloom.storage.images.stored_image import RejectedImage
from pairloom.storage.ingest import Ingest
from pairloom.storage.sources import parquet_images
from pairloom.storage.sources.arrow_batch import ArrowBatch
from pairloom.storage.sources.columns import ColumnsConfig
from pairloom.storage.sources.config import JsonlSource, ParquetSource
from pairloom.storage.sources.parquet import parquet_rows
from pairloom.storage.sources.rows import read_source
from pairloom.storage.sources.source_row import RejectedRow, SourceRow

STRUCT = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def table(count: int, **more: Any) -> pa.Table:
    images = pa.array([{"bytes": picture(each), "path": None} for each in range(count)], STRUCT)
    return pa.table({"image": images, "text": [f"text {each}" for each in range(count)], **more})


def written(path: Path, content: pa.Table, **options: Any) -> ParquetSource:
    pq.write_table(content, path, **options)
    return ParquetSource(path=path)


def dataset(contents: list[bytes]) -> Dataset:
    rows = {
        "picture": [{"bytes": content, "path": f"{number}.jpg"} for number, content in enumerate(contents)],
        "caption": [f"caption {number}" for number in range(len(contents))],
        "label": [number % 2 for number in range(len(contents))],
    }
    features = {"picture": Image(), "caption": Value("large_string"), "label": ClassLabel(names=["cat", "dog"])}
    return Dataset.from_dict(rows, Features(features))


def write_parquet(found: Dataset, path: Path) -> Path:
    found.to_parquet(path / "train.parquet", batch_size=3)
    return path / "train.parquet"


def write_arrow(found: Dataset, path: Path) -> Path:
    found.save_to_disk(path / "saved", num_shards=2)
    return path / "saved"


@pytest.mark.parametrize("write", [write_parquet, write_arrow])
def test_what_datasets_writes_is_read_row_for_row(tmp_path: Path, write: Callable[[Dataset, Path], Path]) -> None:
    contents = pictures(11)
    source = ParquetSource(path=write(dataset(contents), tmp_path))
    rows = read_rows(source, ColumnsConfig(keep={"label": "int64"}))
    assert [image_bytes(row) for row in rows] == contents
    assert [row.texts for row in rows] == [(f"caption {number}",) for number in range(11)]
    assert [row.metadata["label"] for row in rows] == [number % 2 for number in range(11)]
    assert [row.image_path for row in rows] == [f"{number}.jpg" for number in range(11)]
    assert [row.number for row in rows] == list(range(1, 12))


def test_images_that_datasets_took_from_files_are_read(tmp_path: Path) -> None:
    files = [tmp_path / f"{number}.png" for number in range(3)]
    for number, file in enumerate(files):
        file.write_bytes(picture(number))
    found = Dataset.from_dict({"image": [*map(str, files)], "text": ["a", "b", "c"]}).cast_column("image", Image())
    for path in (write_parquet(found, tmp_path), write_arrow(found, tmp_path)):
        assert [image_bytes(row) for row in read_rows(ParquetSource(path=path))] == [picture(each) for each in range(3)]


def test_all_splits_of_a_saved_dataset_are_read_but_no_results_kept_beside_them(tmp_path: Path) -> None:
    parts = {"train": dataset(pictures(4)), "test": dataset(pictures(2))}
    DatasetDict(parts).save_to_disk(tmp_path / "saved")
    stale = next((tmp_path / "saved" / "train").glob("*.arrow"))
    stale.with_name("cache-0123.arrow").write_bytes(stale.read_bytes())
    rows = read_rows(ParquetSource(path=tmp_path / "saved"))
    assert [row.texts[0] for row in rows] == [f"caption {number}" for number in (0, 1, 0, 1, 2, 3)]


def test_null_and_embedded_images_of_a_saved_dataset_are_told_apart(tmp_path: Path) -> None:
    empty = Dataset.from_dict({"picture": [None], "caption": ["none"], "label": [0]}, dataset([]).features)
    for path in (
        write_parquet(concatenate_datasets([dataset(pictures(2)), empty]), tmp_path),
        write_arrow(concatenate_datasets([dataset(pictures(2)), empty]), tmp_path),
    ):
        assert outcomes(ParquetSource(path=path)) == ["caption 0", "caption 1", "image-missing"]


# Columns, their order, types and row groups of 100 as img2dataset 1.47.0's ParquetSampleWriter makes them.
IMG2DATASET = pa.schema(
    [
        *((name, pa.string()) for name in ("caption", "url", "key", "status", "error_message")),
        *((name, pa.int32()) for name in ("width", "height", "original_width", "original_height")),
        *((name, pa.string()) for name in ("exif", "sha256")),
        ("jpg", pa.binary()),
    ]
)


def test_what_img2dataset_writes_is_read_row_for_row(tmp_path: Path) -> None:
    contents = pictures(250)
    rows = [
        {
            "caption": f"caption {number}",
            "url": f"http://example.com/{number}.jpg",
            "key": f"{number:09d}",
            **(
                {"status": "success", "original_width": 8, "jpg": content}
                if number % 5
                else {"status": "failed_to_download", "error_message": "HTTP Error 404: Not Found"}
            ),
        }
        for number, content in enumerate(contents)
    ]
    with pq.ParquetWriter(tmp_path / "00000.parquet", IMG2DATASET) as writer:
        for some in (rows[:100], rows[100:200], rows[200:]):
            writer.write_table(pa.Table.from_pylist(some, IMG2DATASET))
    (tmp_path / "00000_stats.json").write_text("{}")
    source = ParquetSource(path=tmp_path)
    found = list(parquet_rows(source, source.paths[0], "jpg"))
    assert len(found) == 250
    columns = ColumnsConfig(keep={"original_width": "int64", "url": "string"})
    read = list(read_source(source, columns))
    for number, row in enumerate(read):
        if number % 5:
            assert isinstance(row, SourceRow)
            assert (row.item_id, row.texts) == (f"{number:09d}", (f"caption {number}",))
            assert row.metadata == {"original_width": 8, "url": f"http://example.com/{number}.jpg"}
            assert row.image_path == f"00000.parquet#{number + 1}"
            assert image_bytes(row) == contents[number]
        else:
            assert isinstance(row, RejectedRow)
            assert (row.item_id, row.reason) == (f"{number:09d}", "image-missing")
            assert row.message == "failed_to_download: HTTP Error 404: Not Found"
    only_good = source.model_copy(update={"where": "status = 'success'"})
    assert Counter(row.reason for row in rejections(only_good, columns)) == {"where": 50}


@pytest.mark.parametrize(
    "kind", [pa.binary(), pa.large_binary(), pa.binary_view(), pa.dictionary(pa.int32(), pa.binary())]
)
def test_images_may_be_a_column_of_bytes(tmp_path: Path, kind: pa.DataType) -> None:
    plain = kind.value_type if pa.types.is_dictionary(kind) else kind
    images = pa.array([picture(1), picture(2), picture(1)], plain)
    images = images.dictionary_encode() if pa.types.is_dictionary(kind) else images
    source = written(tmp_path / "a.parquet", pa.table({"image": images, "text": ["a", "b", "c"]}))
    rows = read_rows(source)
    assert [image_bytes(row) for row in rows] == [picture(1), picture(2), picture(1)]
    assert [row.image_path for row in rows] == ["a.parquet#1", "a.parquet#2", "a.parquet#3"]


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), pa.dictionary(pa.int32(), pa.string())])
def test_images_may_be_paths_or_addresses(tmp_path: Path, kind: pa.DataType) -> None:
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "a.png").write_bytes(picture(1))
    paths = pa.array(["a.png", "../a.parquet", "http://example.com/a.png", None]).cast(kind)
    pq.write_table(pa.table({"image": paths, "text": ["a", "b", "c", "d"]}), tmp_path / "a.parquet")
    source = ParquetSource(path=tmp_path / "a.parquet", base=tmp_path / "pictures")
    (raw, *_, addressed, empty) = parquet_rows(source, source.paths[0], "image")
    assert raw.image is None
    assert addressed.values()["image"] == "http://example.com/a.png"
    assert empty.values()["image"] is None
    assert outcomes(source)[:2] == ["a", "image-outside-base"]
    assert outcomes(source)[3] == "image-missing"


def test_structs_without_bytes_name_files(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(picture(1))
    cells = [{"bytes": None, "path": "a.png"}, {"bytes": None, "path": "b.png"}, None, {"bytes": None, "path": None}]
    content = pa.table({"image": pa.array(cells, STRUCT), "text": ["a", "b", "c", "d"]})
    source = written(tmp_path / "a.parquet", content)
    assert outcomes(source) == ["a", "image-not-found", "image-missing", "image-missing"]


def test_a_null_among_images_is_found_when_it_is_fetched(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(picture(1))
    cells = [
        {"bytes": picture(2), "path": "x.png"},
        {"bytes": None, "path": "a.png"},
        {"bytes": None, "path": "b.png"},
        {"bytes": None, "path": "../outside.png"},
        {"bytes": None, "path": None},
    ]
    (tmp_path.parent / "outside.png").write_bytes(picture(3))
    source = written(tmp_path / "t.parquet", pa.table({"image": pa.array(cells, STRUCT), "text": list("abcde")}))
    rows = read_rows(source)
    assert [image_bytes(row) for row in rows[:2]] == [picture(2), picture(1)]
    for row in rows[2:]:
        with pytest.raises(NoImageError, match="holds no image"):
            image_bytes(row)
    answers = [
        found
        for _, found in decode([(row.number, row.image.origin) for row in rows], IngestConfig(workers=1, min_side=1))
    ]
    assert [each.reason if isinstance(each, RejectedImage) else "" for each in answers] == [
        "",
        "",
        *["image-missing"] * 3,
    ]
    before = rows[1].fingerprint
    (tmp_path / "a.png").write_bytes(picture(9) + b"longer")
    assert read_rows(source)[1].fingerprint != before


def test_odd_types_become_plain_values(tmp_path: Path) -> None:
    zone, day = dt.timezone(dt.timedelta(hours=2)), dt.date(2024, 2, 29)
    moment = dt.datetime(2024, 2, 29, 12, 30, 1, 5)
    columns: dict[str, tuple[pa.Array, object]] = {
        "large": (pa.array(["x"], pa.large_string()), "x"),
        "view": (pa.array(["x"], pa.string_view()), "x"),
        "coded": (pa.array(["x"]).dictionary_encode(), "x"),
        "lists": (pa.array([["x", "y"]], pa.list_(pa.large_string())), ["x", "y"]),
        "price": (pa.array([Decimal("12.50")], pa.decimal128(10, 2)), 12.5),
        "count": (pa.array([Decimal("12345678901234567890")], pa.decimal128(38, 0)), 12345678901234567890),
        "day": (pa.array([day], pa.date32()), "2024-02-29"),
        "day64": (pa.array([day], pa.date64()), "2024-02-29"),
        "naive": (pa.array([moment], pa.timestamp("ns")), "2024-02-29T12:30:01.000005"),
        "zoned": (
            pa.array([moment.replace(tzinfo=zone)], pa.timestamp("us", "Europe/Berlin")),
            "2024-02-29T10:30:01.000005+00:00",
        ),
        "clock": (pa.array([dt.time(1, 2, 3)], pa.time64("ns")), "01:02:03"),
        "lasting": (pa.array([dt.timedelta(seconds=90)], pa.duration("ns")), 90.0),
        "raw": (pa.array([b"caf\xc3\xa9"], pa.binary()), "café"),
        "digest": (pa.array([b"\x00\xff"], pa.binary(2)), "00ff"),
        "half": (pa.array([1.5], pa.float16()), 1.5),
        "nan": (pa.array([float("nan")]), None),
        "big": (pa.array([2**64 - 1], pa.uint64()), 2**64 - 1),
        "nothing": (pa.nulls(1), None),
        "nested": (pa.array([{"at": day, "n": [1]}]), {"at": "2024-02-29", "n": [1]}),
        "uuid": (pa.array([uuid.UUID(int=1).bytes], pa.uuid()), uuid.UUID(int=1).hex),
    }
    content = pa.table({name: array for name, (array, _) in columns.items()} | {"image": [picture(1)]})
    source = written(tmp_path / "a.parquet", content)
    (row,) = parquet_rows(source, source.paths[0], "image")
    values = dict(row.values())
    assert values.pop("image") == "a.parquet#1"
    assert values == {name: value for name, (_, value) in columns.items()}
    keep: Any = {"price": "float64", "zoned": "timestamp", "day": "timestamp", "lists": "list<string>", "big": "string"}
    (read,) = read_rows(source, ColumnsConfig(texts=["large"], keep=keep))
    assert read.metadata["zoned"] == moment.replace(tzinfo=zone)
    assert read.metadata["big"] == str(2**64 - 1)
    filtered = source.model_copy(update={"where": "price > 12 AND zoned < '2025' AND list_contains(lists, 'y')"})
    assert outcomes(filtered, ColumnsConfig(texts=["large"])) == ["x"]


def test_a_cell_that_python_has_no_value_for_costs_its_row(tmp_path: Path) -> None:
    far = pa.array([1, 2**62, 3], pa.int64()).cast(pa.timestamp("us"))
    source = written(tmp_path / "a.parquet", table(3, at=far))
    assert outcomes(source) == ["text 0", "malformed-row", "text 2"]
    assert "column at can't be read" in rejections(source)[0].message


def test_texts_of_rows_are_equal_only_where_all_values_are() -> None:
    cells = [None, "", "-", "1:a", "a", "a 1:b", "0:"]
    pairs = list(itertools.product(cells, repeat=2))
    first, second = ([pair[side] for pair in pairs] for side in (0, 1))
    batch = ArrowBatch({"a": pa.array(first), "b": pa.array(second)}, len(pairs))
    assert len(set(batch.texts())) == len(pairs)
    other = ArrowBatch({"a": pa.array(first), "c": pa.array(second)}, len(pairs))
    assert not set(batch.texts()) & set(other.texts())
    numbers = [[1, 2], [12], [], None, [None]]
    batch = ArrowBatch({"a": pa.array(numbers), "b": pa.array([1.0, 2.0, float("nan"), None, -0.0])}, 5)
    assert len(set(batch.texts())) == 5


def test_texts_of_raw_rows_say_what_the_rows_say_and_nothing_of_their_images(tmp_path: Path) -> None:
    def texts(content: pa.Table) -> list[str]:
        return [
            row.text for row in parquet_rows(written(tmp_path / "a.parquet", content), tmp_path / "a.parquet", "image")
        ]

    plain = texts(table(3))
    assert len(set(plain)) == 3
    assert texts(table(3).set_column(0, "image", [[{"bytes": b"other", "path": None}] * 3])) == plain
    assert [
        a == b for a, b in zip(plain, texts(table(3).set_column(1, "text", [["text 0", "x", "text 2"]])), strict=True)
    ] == [
        True,
        False,
        True,
    ]
    named = texts(table(3).set_column(0, "image", [[{"bytes": b"other", "path": "a.png"}] * 3]))
    assert not set(named) & set(plain)


def flip(path: Path, at: int) -> None:
    content = bytearray(path.read_bytes())
    content[at] ^= 0xFF
    path.write_bytes(content)


def test_a_damaged_page_costs_the_rows_behind_it_in_its_row_group(tmp_path: Path) -> None:
    options = {"row_group_size": 50, "write_page_checksum": True, "compression": "none", "use_dictionary": False}
    source = written(tmp_path / "a.parquet", table(200), **options)
    chunk = pq.read_metadata(source.paths[0]).row_group(1).column(2)
    assert chunk.path_in_schema == "text"
    flip(source.paths[0], chunk.data_page_offset + chunk.total_compressed_size - 3)
    expected = [f"text {row}" if not 50 <= row < 100 else "malformed-row" for row in range(200)]
    assert outcomes(source) == expected
    assert [row.number for row in rejections(source)] == list(range(51, 101))
    assert "row group 2 is damaged" in rejections(source)[0].message
    good = [row for row in parquet_rows(source, source.paths[0], "image") if row.image is not None]
    assert [image_bytes_of(row.image.origin) for row in good if row.image] == [
        picture(row) for row in range(200) if not 50 <= row < 100
    ]


def image_bytes_of(origin: Any) -> bytes:
    content: bytes = origin()
    return content


def test_a_damaged_page_of_images_costs_images_of_its_row_group(tmp_path: Path) -> None:
    options = {"row_group_size": 50, "write_page_checksum": True, "compression": "none", "use_dictionary": False}
    source = written(tmp_path / "a.parquet", table(200), **options)
    chunk = pq.read_metadata(source.paths[0]).row_group(1).column(0)
    flip(source.paths[0], chunk.data_page_offset + chunk.total_compressed_size - 3)
    rows = read_rows(source)
    config = IngestConfig(workers=2, min_side=1)
    found = [image for _, image in decode([(row.number, row.image.origin) for row in rows], config)]
    lost = [number for number, image in enumerate(found) if isinstance(image, RejectedImage)]
    assert lost == list(range(50, 100))
    assert {image.reason for image in found if isinstance(image, RejectedImage)} == {"image-unreadable"}
    assert not any(image.may_pass for image in found if isinstance(image, RejectedImage))


def test_a_truncated_file_is_one_row_of_its_folder_and_one_line_alone(tmp_path: Path) -> None:
    written(tmp_path / "a.parquet", table(2))
    bad = written(tmp_path / "b.parquet", table(2))
    written(tmp_path / "c.parquet", table(2))
    bad.paths[0].write_bytes(bad.paths[0].read_bytes()[:-20])
    (tmp_path / "d.parquet").write_bytes(b"")
    folder = ParquetSource(path=tmp_path)
    assert outcomes(folder) == ["text 0", "text 1", "malformed-row", "text 0", "text 1", "malformed-row"]
    assert rejections(folder)[0].message.startswith("b.parquet: ")
    with pytest.raises(ValueError, match=r"source .*/b: .*b\.parquet can't be read: [^\n]*$"):
        outcomes(bad)
    with pytest.raises(ValueError, match="no Parquet file"):
        outcomes(ParquetSource(path=tmp_path / "nothing"))


def test_a_truncated_arrow_file_costs_what_is_missing(tmp_path: Path) -> None:
    folder = write_arrow(dataset(pictures(5)), tmp_path)
    first = min(folder.glob("*.arrow"))
    first.write_bytes(first.read_bytes()[:-400])
    found = outcomes(ParquetSource(path=folder))
    assert found == ["malformed-row", "caption 3", "caption 4"]


def test_folders_and_patterns_stand_for_files_in_the_order_of_their_names(tmp_path: Path) -> None:
    for name in ("b/2.parquet", "a/1.parquet", "a/10.parquet", ".hidden/3.parquet"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        pq.write_table(table(1, name=[name]), tmp_path / name)
    columns = ColumnsConfig(texts=["name"])
    assert outcomes(ParquetSource(path=tmp_path), columns) == ["a/1.parquet", "a/10.parquet", "b/2.parquet"]
    assert outcomes(ParquetSource(path=tmp_path / "*" / "1*.parquet"), columns) == ["a/1.parquet", "a/10.parquet"]
    assert [row.image_path for row in read_rows(ParquetSource(path=tmp_path), columns)][2] == "b/2.parquet#1"


def test_a_file_below_a_folder_that_looks_like_a_pattern_is_that_file(tmp_path: Path) -> None:
    (tmp_path / "[a]*").mkdir()
    (tmp_path / "[a]*" / "x.png").write_bytes(picture(1))
    source = written(tmp_path / "[a]*" / "a.parquet", pa.table({"image": ["x.png"], "text": ["a"]}))
    assert outcomes(source) == ["a"]
    assert source.image_folder(source.paths[0]) == tmp_path / "[a]*"


@pytest.mark.parametrize("column", [[1], [["a"]], [{"path": "a.png"}], [1.5]])
def test_a_column_that_holds_no_images_is_named(tmp_path: Path, column: list[Any]) -> None:
    source = written(tmp_path / "a.parquet", pa.table({"image": pa.array(column), "text": ["a"]}))
    (row,) = rejections(source)
    assert (row.reason, "neither bytes, nor structs" in row.message) == ("malformed-row", True)


def test_images_are_read_in_any_order_by_several_threads_and_few_are_kept(tmp_path: Path) -> None:
    options = {"row_group_size": 100, "compression": "none"}
    source = written(tmp_path / "a.parquet", table(1_000), **options)
    rows = read_rows(source)
    order = [(each * 337) % 1_000 for each in range(1_000)]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda place: image_bytes(rows[place]), order))
    assert found == [picture(place) for place in order]


def test_a_file_that_changes_before_its_images_are_read_gives_none(tmp_path: Path) -> None:
    source = written(tmp_path / "a.parquet", table(3))
    rows = read_rows(source)
    written(source.paths[0], table(4))
    with pytest.raises(ValueError, match="changed since it was listed"):
        image_bytes(rows[0])


def test_listing_reads_no_images(tmp_path: Path) -> None:
    source = written(
        tmp_path / "a.parquet", table(50), compression="none", use_dictionary=False, write_page_checksum=True
    )
    chunk = pq.read_metadata(source.paths[0]).row_group(0).column(0)
    assert chunk.path_in_schema == "image.bytes"
    content = bytearray(source.paths[0].read_bytes())
    content[chunk.data_page_offset : chunk.data_page_offset + chunk.total_compressed_size] = bytes(
        chunk.total_compressed_size
    )
    source.paths[0].write_bytes(content)
    assert outcomes(source) == [f"text {row}" for row in range(50)]


def corpus_of(tmp_path: Path, rows: list[dict[str, Any]]) -> Corpus:
    for row in rows:
        (tmp_path / row["image"]).write_bytes(picture(int(row["id"])))
    captions = tmp_path / "captions.jsonl"
    captions.write_text("\n".join(map(json.dumps, rows)))
    corpus = Corpus(tmp_path / "root" / "shop")
    columns = ColumnsConfig(id="id", group="kind", keep={"price": "float64"})
    config = IngestConfig(workers=1, min_side=4, part_rows=2)
    Ingest(corpus, columns.types, config).run([JsonlSource(path=captions, max_removed=1.0)], columns)
    return corpus


def test_the_living_items_of_another_pipelines_corpus_are_rows(tmp_path: Path) -> None:
    rows = [
        {"id": f"{each}", "image": f"{each}.png", "text": f"text {each}", "kind": f"k{each % 2}", "price": each}
        for each in range(5)
    ]
    corpus_of(tmp_path, rows)
    rows[1]["text"] = "another text"
    corpus = corpus_of(tmp_path, [row for row in rows if row["id"] != "3"])
    parts = list((corpus.folder / "corpus").iterdir())
    assert sum(pq.read_metadata(part).num_rows for part in parts) > 4, "the parts hold items that are gone"
    for path in (corpus.folder, corpus.folder / "corpus"):
        found = {
            row.item_id: row for row in read_rows(ParquetSource(path=path), ColumnsConfig(keep={"price": "float64"}))
        }
        assert sorted(found, key=str) == ["0", "1", "2", "4"]
        assert found["1"].texts == ("another text",)
        assert (found["2"].group, found["2"].metadata) == ("k0", {"price": 2.0})
        assert image_bytes(found["4"]) == picture(4)
        assert found["4"].image_path == "4.png"


def test_threads_share_what_is_read(tmp_path: Path) -> None:
    source = written(tmp_path / "a.parquet", table(64), row_group_size=64)
    rows = read_rows(source)
    barrier = threading.Barrier(4)

    def ask(place: int) -> bytes:
        barrier.wait()
        return image_bytes(rows[place])

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(ask, [63, 0, 31, 32])) == [picture(place) for place in (63, 0, 31, 32)]


def test_threads_far_apart_do_not_read_the_same_images_again_and_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = 2**16
    monkeypatch.setattr("pairloom.storage.sources.image_blocks._KEPT_BYTES", kept)
    read: list[int] = []
    blocks = parquet_images._blocks

    def counted(table: parquet_images.ImageTable, group: int) -> Iterator[pa.Array]:
        for block in blocks(table, group):
            read.append(len(block))
            assert block.nbytes < kept
            yield block

    monkeypatch.setattr(parquet_images, "_blocks", counted)
    images = [picture(each) + bytes(1_000) for each in range(1_600)]
    rows = read_rows(written(tmp_path / "a.parquet", pa.table({"image": images, "text": ["x"] * 1_600})))
    for one in range(400):
        for place in range(one, 1_600, 400):
            assert image_bytes(rows[place]) == images[place]
    # Each of the four ways is read once, and what leads to its start.
    assert sum(read) <= 1_600 + 400 + 800 + 1_200 + 4 * 16
