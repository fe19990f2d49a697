"""The digest that a Parquet file carries of itself: every changed bit is found, and plain readers don't mind."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pairloom.storage.files import DamagedError
from pairloom.storage.parquet import read_parquet, require_whole, write_parquet
from pairloom.storage.parquet_seal import KEY, broken

TABLE = pa.table({"name": ["a", "b", "c"], "size": [1, 2, 3]}).replace_schema_metadata({"about": "these"})


def flipped(content: bytes, place: int, bit: int) -> bytes:
    changed = bytearray(content)
    changed[place] ^= 1 << bit
    return bytes(changed)


def test_every_flipped_bit_is_found_and_none_of_the_footer_is_read_as_something_else(tmp_path: Path) -> None:
    path = tmp_path / "table.parquet"
    write_parquet(TABLE, path)
    assert require_whole(path) == 3
    content = path.read_bytes()
    footer = len(content) - 8 - int.from_bytes(content[-8:-4], "little")
    random = np.random.default_rng(0)
    for place in range(len(content)):
        path.write_bytes(flipped(content, place, int(random.integers(8))))
        with pytest.raises(DamagedError):
            require_whole(path)
        if place >= footer:
            with pytest.raises(DamagedError):
                list(read_parquet(path))


def test_plain_readers_see_the_same_table_and_a_table_read_is_written_as_the_same_file(tmp_path: Path) -> None:
    path, copy = tmp_path / "table.parquet", tmp_path / "copy.parquet"
    write_parquet(TABLE, path)
    assert pq.read_table(path).equals(TABLE)
    read = pa.Table.from_batches(read_parquet(path))
    assert read.equals(TABLE, check_metadata=True)
    write_parquet(read, copy)
    assert copy.read_bytes() == path.read_bytes()


def test_files_of_earlier_versions_have_no_seal_and_are_read(tmp_path: Path) -> None:
    path = tmp_path / "table.parquet"
    pq.write_table(TABLE, path, write_page_checksum=True)
    assert KEY.encode() not in path.read_bytes()
    assert not broken(path, contents=True)
    assert require_whole(path) == 3
