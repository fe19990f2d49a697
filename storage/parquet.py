"""Parquet files with page checksums, whole or absent."""

import errno
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pairloom.storage.files import DamagedError, written_aside
from pairloom.storage.objects import readable
from pairloom.storage.parquet_seal import EMPTY, KEY, broken, seal

ROW_GROUP = 1000
IMAGE_LEAVES = ("image.bytes", "image.path", "thumbnail")


def write_parquet(table: pa.Table, path: Path, *, apart: str | None = None) -> None:
    """Write `table` at `path` in one step, readable by anything that reads Parquet.

    Rows that differ in the column `apart` are in different row groups. Image bytes are compressed already: they get no
    dictionary, no compression and no statistics.
    """
    leaves = _leaves(table.schema)
    plain = [field.name for field in table.schema if pa.types.is_string(field.type)]
    with sealed_aside(
        path,
        table.schema,
        use_dictionary=plain,
        compression={name: "NONE" if name in IMAGE_LEAVES else "ZSTD" for name in leaves},
        write_statistics=[name for name in leaves if name not in IMAGE_LEAVES],
    ) as writer:
        for rows in _runs(table, apart) if apart else [table]:
            writer.write_table(rows, row_group_size=ROW_GROUP)


@contextmanager
def sealed_aside(path: Path, schema: pa.Schema, **options: Any) -> Iterator[pq.ParquetWriter]:
    """What writes a Parquet file at `path`, whole or not at all, with page checksums and a seal."""
    with written_aside(path) as aside:
        with pq.ParquetWriter(aside, schema, write_page_checksum=True, **options) as writer:
            writer.add_key_value_metadata({KEY: EMPTY})
            yield writer
        seal(aside)


def read_parquet(
    path: Path, columns: Sequence[str] | None = None, *, among: tuple[str, pa.Array] | None = None
) -> Iterator[pa.RecordBatch]:
    """The record batches of one file, every page checked.

    `among` names a column of the file and the values of it that are wanted: only rows with one are read, and of row
    groups without one nothing but that column, at most. Raises DamagedError where the file is missing or not whole,
    OSError where the system couldn't read it this time.
    """
    with open_parquet(path) as file:
        wanted = (
            file.iter_batches(batch_size=ROW_GROUP, columns=columns)
            if among is None
            else _wanted(file, columns, *among)
        )
        rows = 0
        for batch in wanted:
            rows += batch.num_rows
            yield batch.replace_schema_metadata(file.schema_arrow.metadata)
        # Page headers have no checksum: one may say that there is nothing.
        if among is None and rows != file.metadata.num_rows:
            raise DamagedError(f"{path} can't be read: it has {rows} rows, of {file.metadata.num_rows}")


def read_schema(path: Path) -> pa.Schema:
    """The columns of one file. Raises what `read_parquet` does."""
    with open_parquet(path) as file:
        return file.schema_arrow


def require_whole(path: Path) -> int:
    """The rows of one file, of which every byte is read. Raises what `read_parquet` does."""
    with damage_told(path):
        if broken(path, contents=True):
            raise DamagedError(f"{path} has other contents than were written")
    return sum(batch.num_rows for batch in read_parquet(path))


@contextmanager
def open_parquet(path: Path) -> Iterator[pq.ParquetFile]:
    """One file whose footer is as it was written and whose pages are checked as they are read.

    Raises what `read_parquet` does, then and in what is done with it.
    """
    with damage_told(path):
        source = readable(path)
        if broken(source):
            raise DamagedError(f"{path} can't be read: its footer is not what was written")
        with pq.ParquetFile(source, page_checksum_verification=True) as file:
            yield file


@contextmanager
def damage_told(path: Path) -> Iterator[None]:
    """Raises DamagedError for what Arrow and the system say of a file that is missing or not whole."""
    try:
        yield
    except pa.ArrowInvalid as error:
        raise DamagedError(f"{path} can't be read: {error}") from error
    except OSError as error:
        # What Arrow finds wrong has no number; too many open files, a failing disk or missing permission have.
        if error.errno not in (None, errno.ENOENT):
            raise
        raise DamagedError(f"{path} can't be read: {error}") from error


def _runs(table: pa.Table, column: str) -> Iterator[pa.Table]:
    """The table in pieces, one for each run of equal values."""
    ends = pc.run_end_encode(table[column].combine_chunks(), run_end_type=pa.int64()).run_ends.to_pylist()
    for start, end in zip([0, *ends[:-1]], ends, strict=True):
        yield table.slice(start, end - start)


def _wanted(
    file: pq.ParquetFile, columns: Sequence[str] | None, column: str, values: pa.Array
) -> Iterator[pa.RecordBatch]:
    """Of each row group that may hold one, the rows that have one of `values` in `column`."""
    if not len(values):
        return
    low, high = (end.as_py() for end in pc.min_max(values).values())
    place = next(at for at, leaf in enumerate(_paths(file.schema)) if leaf == column)
    for group in range(file.num_row_groups):
        seen = file.metadata.row_group(group).column(place).statistics
        if seen is not None and seen.has_min_max and (seen.max < low or seen.min > high):
            continue
        found = pc.is_in(file.read_row_group(group, [column])[column], value_set=values)
        if pc.any(found).as_py():
            yield from file.read_row_group(group, columns).filter(found).combine_chunks().to_batches()


def _leaves(schema: pa.Schema) -> list[str]:
    """Paths of the leaf columns, which per-column compression must name one by one."""
    sink = pa.BufferOutputStream()
    pq.write_table(schema.empty_table(), sink)
    return _paths(pq.ParquetFile(pa.BufferReader(sink.getvalue())).schema)


def _paths(leaves: pq.ParquetSchema) -> list[str]:
    return [leaves.column(index).path for index in range(len(leaves))]
