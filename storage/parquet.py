"""Parquet files with page checksums, whole or absent."""

import errno
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from pairloom.storage.files import DamagedError, written_aside

ROW_GROUP = 1000
IMAGE_LEAVES = ("image.bytes", "image.path")


def write_parquet(table: pa.Table, path: Path) -> None:
    """Write `table` at `path` in one step, readable by anything that reads Parquet.

    Image bytes are compressed already: they get no dictionary, no compression and no statistics.
    """
    leaves = _leaves(table.schema)
    plain = [field.name for field in table.schema if pa.types.is_string(field.type)]
    with written_aside(path) as aside:
        pq.write_table(
            table,
            aside,
            row_group_size=ROW_GROUP,
            use_dictionary=plain,
            compression={name: "NONE" if name in IMAGE_LEAVES else "ZSTD" for name in leaves},
            write_statistics=[name for name in leaves if name not in IMAGE_LEAVES],
            write_page_checksum=True,
        )


def read_parquet(path: Path, columns: Sequence[str] | None = None) -> Iterator[pa.RecordBatch]:
    """The record batches of one file, every page checked.

    Raises DamagedError where it is missing or not whole, OSError where the system couldn't read it this time.
    """
    with _damage_told(path), pq.ParquetFile(path, page_checksum_verification=True) as file:
        yield from file.iter_batches(batch_size=ROW_GROUP, columns=columns)


def read_schema(path: Path) -> pa.Schema:
    """The columns of one file. Raises what `read_parquet` does."""
    with _damage_told(path):
        return pq.read_schema(path)


@contextmanager
def _damage_told(path: Path) -> Iterator[None]:
    try:
        yield
    except pa.ArrowInvalid as error:
        raise DamagedError(f"{path} can't be read: {error}") from error
    except OSError as error:
        # What Arrow finds wrong has no number; too many open files, a failing disk or missing permission have.
        if error.errno not in (None, errno.ENOENT):
            raise
        raise DamagedError(f"{path} can't be read: {error}") from error


def _leaves(schema: pa.Schema) -> list[str]:
    """Paths of the leaf columns, which per-column compression must name one by one."""
    sink = pa.BufferOutputStream()
    pq.write_table(schema.empty_table(), sink)
    leaves = pq.ParquetFile(pa.BufferReader(sink.getvalue())).schema
    return [leaves.column(index).path for index in range(len(leaves))]
