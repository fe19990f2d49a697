"""Rows of Arrow files as `datasets.save_to_disk` writes them, mapped into memory: images are touched when asked for."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pyarrow as pa

from pairloom.storage.images.location import ImageAt, file_key, file_version
from pairloom.storage.sources.image_column import Picture, image_column, table_rows
from pairloom.storage.sources.raw_row import MOST_LOST, RawRow, first_line, malformed


def arrow_rows(path: Path, at: str, name: str, numbers: Iterator[int]) -> Iterator[RawRow]:
    """The rows of one file, which people know as `at`; `name` is the image column.

    Each row of a damaged batch is a malformed one; a file that ends in the middle is one more. Raises ValueError,
    ArrowException or OSError for a file that can't be read at all.
    """
    status = path.stat()
    version = file_version(status)
    key = file_key(path)
    with _opened(path) as (mapped, schema, batches):
        column = image_column(schema, name)
        done = 0
        try:
            for whole in batches:
                first, done = done, done + whole.num_rows
                try:
                    _check(whole)
                except pa.ArrowException as error:
                    for row in range(first, first + min(whole.num_rows, MOST_LOST)):
                        yield malformed(next(numbers), f"{at}#{row + 1}", f"{at}#{row + 1}: {first_line(error)}")
                    continue
                pictures = None
                if column.form != "name":
                    pictures = _pictures(whole[name], column.form, f"{key}#", f"{at}#", first, version)
                yield from table_rows(whole, column, pictures, numbers)
            if mapped.tell() < mapped.size() and isinstance(batches, pa.RecordBatchStreamReader):
                raise pa.ArrowInvalid(f"it ends after {mapped.tell()} of {mapped.size()} bytes")
        except (pa.ArrowException, OSError) as error:
            message = f"{at}: all rows from {done + 1} on are lost: {first_line(error)}"
            yield malformed(next(numbers), f"{at}#{done + 1}", message)


def arrow_schema(path: Path) -> pa.Schema:
    """The columns of one file. Raises ArrowException or OSError."""
    with _opened(path) as (_, schema, _):
        return schema


@contextmanager
def _opened(path: Path) -> Iterator[tuple[pa.MemoryMappedFile, pa.Schema, Iterable[pa.RecordBatch]]]:
    with path.open("rb") as stream:
        with_footer = stream.read(6) == b"ARROW1"
    mapped = pa.memory_map(str(path))
    if with_footer:
        file = pa.ipc.open_file(mapped)
        yield mapped, file.schema, (file.get_batch(number) for number in range(file.num_record_batches))
    else:
        reader = pa.ipc.open_stream(mapped)
        yield mapped, reader.schema, reader


def _check(batch: pa.RecordBatch) -> None:
    """Raises ArrowException where an array leads out of its buffers. Of bytes, this looks at their places only."""
    for array in batch.columns:
        # A text that is not UTF-8 costs its own row, later.
        plain = {pa.string(): pa.binary(), pa.large_string(): pa.large_binary()}.get(array.type)
        (array if plain is None else array.view(plain)).validate(full=True)


def _pictures(array: pa.Array, form: str, key: str, at: str, first: int, version: str) -> Iterator[Picture]:
    paths: list[str | None] = [None] * len(array)
    if form == "struct":
        names = [field.name for field in array.type]
        fields = dict(zip(names, array.flatten(), strict=True))
        array = fields["bytes"]
        paths = fields["path"].to_pylist() if "path" in fields else paths
    for row, (valid, path) in enumerate(zip(array.is_valid().to_pylist(), paths, strict=True)):
        place = first + row + 1
        image = ImageAt(f"{key}{place}", version, None, partial(_cell, array, row)) if valid else None
        yield Picture(path or (f"{at}{place}" if valid else None), image)


def _cell(array: pa.Array, row: int) -> bytes:
    return array[row].as_py()  # type: ignore[no-any-return] # a binary scalar that is not null
