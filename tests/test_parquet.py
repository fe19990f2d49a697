"""What a Parquet file that can't be read is taken for."""

import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pytest

from pairloom.storage.files import DamagedError
from pairloom.storage.parquet import read_parquet, read_schema, write_parquet


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "part.parquet"
    write_parquet(pa.table({"number": range(5_000)}), path)
    return path


@contextmanager
def no_more_files() -> Iterator[None]:
    """No further file can be opened."""
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


def test_a_missing_cut_or_changed_file_is_damaged(file: Path) -> None:
    content = file.read_bytes()
    file.write_bytes(content[:100] + bytes([content[100] ^ 1]) + content[101:])
    with pytest.raises(DamagedError, match="CRC"):
        list(read_parquet(file))
    file.write_bytes(content[:-10])
    for read in (read_schema, lambda path: list(read_parquet(path))):
        with pytest.raises(DamagedError, match=r"part\.parquet can't be read"):
            read(file)
    file.unlink()
    for read in (read_schema, lambda path: list(read_parquet(path))):
        with pytest.raises(DamagedError, match="No such file"):
            read(file)


def test_what_may_pass_is_no_damage_and_can_be_tried_again(file: Path) -> None:
    for read in (read_schema, lambda path: list(read_parquet(path))):
        with no_more_files(), pytest.raises(OSError, match="Too many open files"):
            read(file)
    assert sum(batch.num_rows for batch in read_parquet(file)) == 5_000
