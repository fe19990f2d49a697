"""What is known of source rows: found by digests, kept in columns, trusted only where nothing can have changed."""

import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from pairloom.storage.ingestion.chunk import Chunk
from pairloom.storage.ingestion.known_rows import (
    FRESH,
    NO_FRESH,
    DigestIndex,
    KnownRows,
    LastNight,
    as_numbers,
    written,
)
from pairloom.storage.schema import KNOWN_ROWS
from pairloom.storage.sources.image_folder import ImageFolder

# Few halves, so that digests share one.
DIGESTS = st.tuples(st.integers(0, 3), st.integers(0, 3))


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.lists(DIGESTS, max_size=20), st.lists(DIGESTS, max_size=10))
def test_digests_are_found_as_by_looking_at_every_one(
    known: list[tuple[int, int]], asked: list[tuple[int, int]]
) -> None:
    index = DigestIndex(np.array(known, np.uint64).reshape(-1, 2))
    found = index.find(np.array(asked, np.uint64).reshape(-1, 2))
    assert found.tolist() == [known.index(each) if each in known else -1 for each in asked]


@given(st.lists(st.integers(-1, 4), min_size=1, max_size=12), st.data())
@settings(max_examples=100, deadline=None, derandomize=True)
def test_a_chunk_takes_its_columns_row_by_row(known: list[int], data: st.DataObject) -> None:
    where = np.array(data.draw(st.lists(st.booleans(), min_size=len(known), max_size=len(known))), bool)
    rows = KnownRows(Path("none"))
    rows.rows, rows._columns = 5, {"message": pa.array([f"known {row}" for row in range(5)])}
    fresh = [f"fresh {place}" for place, row in enumerate(known) if row < 0]
    columns = [
        pa.array(fresh) if name == "message" else pa.nulls(len(fresh), FRESH.field(name).type) for name in FRESH.names
    ]
    batch = pa.RecordBatch.from_arrays(columns, names=FRESH.names) if fresh else NO_FRESH
    chunk = Chunk("rows", np.arange(len(known)), np.array(known), batch)
    slow = [f"known {row}" if row >= 0 else f"fresh {place}" for place, row in enumerate(known)]
    assert chunk.take(rows, "message").to_pylist() == slow
    assert chunk.take(rows, "message", where).to_pylist() == [
        each for each, there in zip(slow, where, strict=True) if there
    ]


@pytest.mark.parametrize("rows", [[], [4], [5, 3], [2, 6, 2], [0, 11, 5]])
def test_rows_taken_from_a_file_are_those_of_the_whole_column(tmp_path: Path, rows: list[int]) -> None:
    last = LastNight(base="", rules="", sources=(), compared="", counts=None)
    with written(tmp_path / "rows.parquet", last) as writer:
        for start in range(0, 12, 3):
            columns = [
                pa.array(range(start, start + 3), each.type)
                if each.name == "number"
                else pa.repeat(_some(each.type), 3)
                for each in KNOWN_ROWS
            ]
            writer.write_table(pa.Table.from_arrays(columns, schema=KNOWN_ROWS))
    known = KnownRows(tmp_path / "rows.parquet")
    assert known.take("number", np.array(rows, np.int64)).to_pylist() == rows
    assert known.column("number").to_pylist() == list(range(12))
    assert known.take("number", np.array(rows, np.int64)).to_pylist() == rows


def _some(kind: pa.DataType) -> pa.Scalar:
    """A value of a type."""
    if pa.types.is_list(kind):
        return pa.scalar([], kind)
    return pa.scalar(bytes(kind.byte_width), kind) if pa.types.is_fixed_size_binary(kind) else pa.scalar(0).cast(kind)


def test_slices_of_digests_are_the_digests_of_their_rows() -> None:
    digests = pa.array([bytes([number]) * 16 for number in range(4)], pa.binary(16))
    assert as_numbers(digests.slice(1, 2)).tobytes() == bytes([1]) * 16 + bytes([2]) * 16
    assert as_numbers(digests.slice(0, 0)).shape == (0, 2)


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """A folder with a picture, beside one outside."""
    for name in ("below/a.png", "outside/a.png"):
        (tmp_path / name).parent.mkdir()
        Image.new("RGB", (8, 8)).save(tmp_path / name)
        os.utime(tmp_path / name, ns=(10**18, 10**18))
    return tmp_path


def unchanged(folder: Path, *keys: Path, version: str) -> list[bool]:
    return ImageFolder(folder).unchanged((str(key), version) for key in keys)


def test_an_image_is_unchanged_only_as_the_file_that_it_was_below_its_folder(pictures: Path) -> None:
    below = pictures / "below"
    image = ImageFolder(below).find("a.png")
    version = image.version
    assert unchanged(below, below / "a.png", version=version) == [True]
    assert unchanged(below, below / "a.png", version=f"{version}0") == [False]
    assert unchanged(below, below / "none.png", below, below / "a.png" / "b.png", version=version) == [False] * 3
    assert unchanged(below, below / ".." / "outside" / "a.png", pictures / "outside" / "a.png", version=version) == [
        False,
        False,
    ]
    (below / "linked").symlink_to(pictures / "outside")
    (below / "link.png").symlink_to(below / "a.png")
    assert unchanged(below, below / "linked" / "a.png", below / "link.png", version=version) == [False, False]
