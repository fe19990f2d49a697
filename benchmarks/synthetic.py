"""A corpus that was never ingested: parts of made-up items with tiny pictures, as large as wanted, in seconds."""

import io
from collections.abc import Sequence
from datetime import UTC, datetime

import numpy as np
import pyarrow as pa
from PIL import Image

from pairloom.storage.corpus import EMPTY, Corpus, Part, Snapshot
from pairloom.storage.schema import ARROW_TYPES, item_schema

PART_ROWS = 50_000
SIDE = 16
NAMES = ("red", "green", "blue", "small", "large", "old", "new", "round", "flat", "bright")
THINGS = ("shoe", "cup", "house", "tree", "lamp", "chair", "book", "boat", "bird", "door")


def write_corpus(corpus: Corpus, rows: int, *, part_rows: int = PART_ROWS, val_every: int = 20) -> Snapshot:
    """A snapshot of so many items. Three share a group, one of `val_every` is of the validation split."""
    pictures = tiny_pictures(256)
    parts = [
        write_part(corpus, range(first, min(first + part_rows, rows)), pictures, val_every)
        for first in range(0, rows, part_rows)
    ]
    snapshot = Snapshot(number=1, files={}, parts=tuple(parts), quarantine=(), tombstones={}, keep={})
    return corpus.commit(snapshot, {})


def write_part(corpus: Corpus, numbers: range, pictures: Sequence[bytes], val_every: int = 20) -> Part:
    """One part of the items with these numbers."""
    count, number_N = len(numbers), np.arange(numbers.start, numbers.stop)
    images = pa.StructArray.from_arrays(
        [pa.array([pictures[number % len(pictures)] for number in numbers], pa.binary()), made("pictures/", numbers)],
        ["bytes", "path"],
    )
    texts = pa.ListArray.from_arrays(np.arange(count + 1, dtype=np.int32), pa.array(map(text_of, numbers), pa.string()))
    columns = {
        "item_id": made("i", numbers),
        "image": images,
        "texts": texts,
        "group": pa.array([f"g{number // 3}" for number in numbers]),
        "split": pa.array(np.where(number_N // 3 % val_every == 0, "val", "train")),
        "split_named": pa.array(np.zeros(count, bool)),
        "content_digest": made("c", numbers),
        "stored_digest": made("s", numbers),
        "pixel_hash": made("p", numbers),
        "perceptual_hash": pa.array([f"{number * 0x9E3779B97F4A7C15 % 2**64:016x}" for number in numbers]),
        "width": pa.array(np.full(count, SIDE, np.int32)),
        "height": pa.array(np.full(count, SIDE, np.int32)),
        "source": pa.array(["made up"] * count),
        "ingested_at": pa.array([datetime(2026, 11, 26, tzinfo=UTC)] * count, ARROW_TYPES["timestamp"]),
        "thumbnail": pa.array([pictures[0]] * count, pa.binary()),
    }
    schema = item_schema({})
    return corpus.write_items(pa.table([columns[name] for name in schema.names], schema=schema), EMPTY)


def made(prefix: str, numbers: range) -> pa.Array:
    """A name for each of these numbers."""
    return pa.array([f"{prefix}{number:09d}" for number in numbers], pa.string())


def text_of(number: int) -> str:
    """What an item says: the same of some three items in a thousand."""
    return f"{NAMES[number % 10]} {THINGS[number // 10 % 10]} {number // 3 % 100_000}"


def tiny_pictures(count: int) -> list[bytes]:
    """So many PNGs, a hundred bytes or so each."""
    random, found = np.random.default_rng(0), []
    for _ in range(count):
        stream = io.BytesIO()
        Image.new("RGB", (SIDE, SIDE), tuple(random.integers(0, 256, 3).tolist())).save(stream, "PNG")
        found.append(stream.getvalue())
    return found
