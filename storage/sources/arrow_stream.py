"""Rows of Arrow files as `datasets.save_to_disk` writes them, mapped into memory: images are touched when asked for."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pyarrow as pa

from pairloom.storage.images.location import ImageAt
from pairloom.storage.sources.image_column import Picture, image_column, table_rows
from pairloom.storage.sources.raw_row import RawRow, malformed


def arrow_rows(path: Path, at: str, name: str, numbers: Iterator[int]) -> Iterator[RawRow]:
    """The rows of one file, which people know as `at`; `name` is the image column.

    A damaged batch is one malformed row, and a file that ends in the middle another one. Raises ValueError,
    ArrowException or OSError for a file that can't be read at all.
    """
    status = path.stat()
    version = f"{status.st_size}:{status.st_mtime_ns}"
    key = str(path).encode(errors="backslashreplace").decode()
    with _opened(path) as (schema, batches):
        column = image_column(schema, name)
        done = 0
        try:
            for whole in batches:
                first, done = done, done + whole.num_rows
                try:
                    # Of bytes, this looks at the places only.
                    whole.validate(full=True)
                except pa.ArrowException as error:
                    yield malformed(
                        next(numbers), f"{at}#{first + 1}", f"{at}: {whole.num_rows} rows are lost: {error}"
                    )
                    continue
                pictures = None
                if column.form != "name":
                    pictures = _pictures(whole[name], column.form, f"{key}#", f"{at}#", first, version)
                yield from table_rows(whole, column, pictures, numbers)
        except (pa.ArrowException, OSError) as error:
            yield malformed(next(numbers), f"{at}#{done + 1}", f"{at}: all rows from {done + 1} on are lost: {error}")


def arrow_schema(path: Path) -> pa.Schema:
    """The columns of one file. Raises ArrowException or OSError."""
    with _opened(path) as (schema, _):
        return schema


@contextmanager
def _opened(path: Path) -> Iterator[tuple[pa.Schema, Iterator[pa.RecordBatch]]]:
    with path.open("rb") as stream:
        with_footer = stream.read(6) == b"ARROW1"
    mapped = pa.memory_map(str(path))
    if with_footer:
        file = pa.ipc.open_file(mapped)
        yield file.schema, (file.get_batch(number) for number in range(file.num_record_batches))
    else:
        reader = pa.ipc.open_stream(mapped)
        yield reader.schema, iter(reader)


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
