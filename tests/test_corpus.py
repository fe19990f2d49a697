"""Parts of the corpus: sorted by split, and read no further than is asked for."""

import io
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import load_dataset
from PIL import Image

from pairloom.models.pictures import Picture, opened
from pairloom.storage.corpus import EMPTY, Corpus, Snapshot
from pairloom.storage.files import DamagedError
from pairloom.storage.images.stored_image import thumbnail
from pairloom.storage.parquet import write_parquet
from pairloom.storage.schema import item_schema
from pairloom.tasks.indexing.rows import thumbnails
from pairloom.tasks.items import image_batches, images_of, read_items, split_images

SPLITS = ["train", "val", "train", "test", "train", "train"]


def picture(number: int) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(np.random.default_rng(number).integers(0, 256, (24, 24, 3), np.uint8)).save(stream, "PNG")
    return stream.getvalue()


def rows(count: int) -> list[dict[str, Any]]:
    return [
        {
            "item_id": f"i{number}",
            "image": {"bytes": picture(number), "path": f"{number}.png"},
            "texts": [f"text {number}"],
            "split": SPLITS[number % len(SPLITS)],
            "content_digest": f"digest {number}",
            "pixel_hash": f"hash {number}",
            "ingested_at": datetime(2026, 11, 26, tzinfo=UTC),
            "thumbnail": b"small",
        }
        for number in range(count)
    ]


@pytest.fixture
def corpus(tmp_path: Path) -> Corpus:
    return Corpus(tmp_path)


def stored(corpus: Corpus, count: int) -> Snapshot:
    """A snapshot of one part."""
    part = corpus.write_items(pa.Table.from_pylist(rows(count), item_schema({})), EMPTY)
    return corpus.commit(Snapshot(number=1, files={}, parts=(part,), quarantine=(), tombstones={}, keep={}), {})


def path(corpus: Corpus, snapshot: Snapshot) -> Path:
    return corpus.folder / "corpus" / f"part-{snapshot.parts[0].digest}.parquet"


def damage_images(corpus: Corpus, snapshot: Snapshot, spared: str) -> None:
    """Spoil the pages of the image bytes in all row groups but those of one split."""
    file = path(corpus, snapshot)
    layout = pq.ParquetFile(file)
    column = next(at for at in range(len(layout.schema)) if layout.schema.column(at).path == "image.bytes")
    content = bytearray(file.read_bytes())
    for group in range(layout.num_row_groups):
        if layout.read_row_group(group, ["split"])["split"][0].as_py() != spared:
            chunk = layout.metadata.row_group(group).column(column)
            start = chunk.data_page_offset
            content[start : start + chunk.total_compressed_size] = b"\0" * chunk.total_compressed_size
    file.write_bytes(content)


def pixels(batches: Iterable[list[Picture]]) -> list[bytes]:
    return [opened(picture).tobytes() for batch in batches for picture in batch]


def test_a_parts_rows_stand_by_split_and_otherwise_in_their_order(corpus: Corpus) -> None:
    snapshot = stored(corpus, 2_600)
    found = corpus.table(snapshot, ["item_id", "split"]).to_pylist()
    expected = sorted(rows(2_600), key=lambda row: ["train", "val", "test"].index(row["split"]))
    assert [row["item_id"] for row in found] == [row["item_id"] for row in expected]
    layout = pq.ParquetFile(path(corpus, snapshot))
    in_groups = [set(layout.read_row_group(at, ["split"])["split"].to_pylist()) for at in range(layout.num_row_groups)]
    assert in_groups == [{"train"}, {"train"}, {"val"}, {"test"}]


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_of_one_split_no_other_image_is_read(corpus: Corpus, split: str) -> None:
    snapshot = stored(corpus, 60)
    damage_images(corpus, snapshot, split)
    expected = [row["image"]["bytes"] for row in rows(60) if row["split"] == split]
    plain = [Image.open(io.BytesIO(content)).tobytes() for content in expected]
    assert pixels(split_images(corpus, snapshot, split)) == plain
    items = read_items(corpus, snapshot, split)
    assert pixels(image_batches(corpus, snapshot, items.item_ids)) == plain
    asked = pa.array(items.item_ids[::-1], pa.string())
    assert [place for place, _ in images_of(corpus, snapshot, asked)] == list(range(len(plain)))[::-1]
    with pytest.raises(DamagedError):
        list(split_images(corpus, snapshot, next(each for each in ("train", "val") if each != split)))


@pytest.mark.parametrize("sorted_by_split", [True, False])
def test_what_is_asked_for_is_what_a_full_reading_has(corpus: Corpus, sorted_by_split: bool) -> None:
    snapshot = stored(corpus, 1_300)
    if not sorted_by_split:
        # As earlier versions wrote it: in the order of the sources, without thumbnails.
        table = pa.Table.from_pylist(rows(1_300), item_schema({})).drop_columns(["thumbnail"])
        pq.write_table(table, path(corpus, snapshot), row_group_size=500)
    snapshot = snapshot.model_copy(update={"tombstones": {snapshot.parts[0].digest: ("i1", "i2", "i1298")}})
    (part,) = snapshot.parts
    whole = pa.Table.from_batches(corpus.read(snapshot, part)).to_pylist()
    assert len(whole) == 1_297
    assert {row["thumbnail"] for row in whole} == {b"small" if sorted_by_split else None}
    for column, values in (
        ("split", ["val"]),
        ("split", ["val", "test"]),
        ("split", ["none"]),
        ("item_id", ["i7", "i1299", "i2", "nobody"]),
        ("item_id", []),
    ):
        among = (column, pa.array(values, pa.string()))
        batches = corpus.read(snapshot, part, among=among)
        assert [row for batch in batches for row in batch.to_pylist()] == [
            row for row in whole if row[column] in values
        ]
        texts = corpus.read(snapshot, part, ["texts"], among=among)
        assert [text for batch in texts for text in batch["texts"].to_pylist()] == [
            row["texts"] for row in whole if row[column] in values
        ]


def test_datasets_reads_images_and_thumbnails(corpus: Corpus, tmp_path: Path) -> None:
    snapshot = stored(corpus, 6)
    found = load_dataset(
        "parquet", data_files=str(path(corpus, snapshot)), split="train", cache_dir=str(tmp_path / "cache")
    )
    assert found.features["image"].dtype == "PIL.Image.Image"
    assert found[0]["image"].tobytes() == Image.open(io.BytesIO(picture(0))).tobytes()
    assert {row["thumbnail"] for row in found} == {b"small"}


@pytest.mark.parametrize("made_at_ingest", [True, False])
def test_thumbnails_are_taken_from_the_corpus_or_made_where_a_part_has_none(
    corpus: Corpus, made_at_ingest: bool
) -> None:
    snapshot = stored(corpus, 30)
    (part,) = snapshot.parts
    if made_at_ingest:
        damage_images(corpus, snapshot, spared="none")
    else:
        table = pa.Table.from_pylist(rows(30), item_schema({}))
        given = pa.array([b"small" if number % 3 else None for number in range(30)], pa.binary())
        write_parquet(
            table.set_column(table.schema.get_field_index("thumbnail"), "thumbnail", given), path(corpus, snapshot)
        )
    asked = pa.array([f"i{number}" for number in range(5, 25)], pa.string())
    (items,) = (
        pa.Table.from_batches(corpus.read(snapshot, part, ["item_id", "thumbnail"], among=("item_id", asked)))
        .combine_chunks()
        .to_batches()
    )
    numbers = [int(item_id[1:]) for item_id in items["item_id"].to_pylist()]
    assert sorted(numbers) == list(range(5, 25))
    assert thumbnails(corpus, snapshot, part, items) == [
        b"small" if made_at_ingest or number % 3 else thumbnail(picture(number)) for number in numbers
    ]
