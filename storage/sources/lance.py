"""Rows of a LanceDB table, at one of its versions."""

import itertools
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

import pyarrow as pa

from pairloom.storage.digest import digest
from pairloom.storage.images.location import ImageAt, NoImageError, file_key
from pairloom.storage.sources.config import LanceSource
from pairloom.storage.sources.image_blocks import IMAGES_AT_ONCE, ImageBlocks
from pairloom.storage.sources.image_column import ImageColumn, Picture, image_column, table_rows
from pairloom.storage.sources.raw_row import RawRow, first_line, malformed

if TYPE_CHECKING:
    from lance import LanceDataset, LanceFragment

_ROWS = 1_000
_ADDRESS = "_rowaddr"
_INSIDE = (0, 1, 2)
"""Kinds of blobs that are stored with the table; others are addresses of anything."""

_DAMAGE = (pa.ArrowException, OSError, ValueError, RuntimeError)
"""What lance raises where a file isn't whole."""


def lance_rows(config: LanceSource, path: Path, name: str) -> Iterator[RawRow]:
    """The living rows of the table in its order; `name` is the image column. Images are read when they are asked for.

    A fragment that can't be read costs its own rows. Raises ValueError for a table that isn't there.
    """
    dataset = _dataset(config, path)
    table = _Table(dataset, table_path(config, path), image_column(dataset.schema, name))
    numbers = itertools.count(1)
    for fragment in dataset.get_fragments():
        yield from table.rows(fragment, numbers)


def lance_schema(config: LanceSource, path: Path) -> pa.Schema:
    """The table's columns. Raises ValueError for a table that isn't there."""
    return _dataset(config, path).schema


def lance_version(config: LanceSource, path: Path) -> str:
    """What changes with anything in the table. Raises ValueError for a table that isn't there."""
    dataset = _dataset(config, path)
    fragments = [(each.count_rows(), [file.path for file in each.data_files()]) for each in dataset.get_fragments()]
    return digest([str(table_path(config, path)), dataset.version, fragments])


def table_path(config: LanceSource, path: Path) -> Path:
    """The table's folder. Raises ValueError where `path` and `table` name none."""
    if config.table is None and path.suffix == ".lance":
        return path
    tables = sorted(each.stem for each in path.glob("*.lance")) if path.is_dir() else []
    chosen = tables[0] if config.table is None and len(tables) == 1 else config.table
    if chosen not in tables:
        which = "name one with `table`" if config.table is None else f"there is no table {config.table}"
        raise ValueError(f"{path}: {which}; it holds {', '.join(tables) or 'none'}")
    return path / f"{chosen}.lance"


def _dataset(config: LanceSource, path: Path) -> "LanceDataset":
    # Imported here: it takes seconds.
    import lance

    path = table_path(config, path)
    try:
        with _without_panics():
            dataset = lance.dataset(str(path))
            versions = [each["version"] for each in dataset.versions()] if config.version else []
            if config.version in versions:
                dataset = lance.dataset(str(path), version=config.version)
    except _DAMAGE as error:
        raise ValueError(f"{path} can't be read as a Lance table: {_said(error)}") from error
    if config.version is not None and config.version not in versions:
        raise ValueError(f"{path} has no version {config.version}: it holds {versions[0]} to {versions[-1]}")
    for fragment in dataset.get_fragments():
        for file in fragment.data_files():
            if file.base_id is not None or ".." in PurePosixPath(file.path).parts or file.path.startswith("/"):
                raise ValueError(f"{path} names files outside of it: {file.path}; copy the table")
    return dataset


@contextmanager
def _without_panics() -> Iterator[None]:
    """Panics of lance's Rust, which aren't even Exceptions, as ValueError."""
    try:
        yield
    except BaseException as error:
        if type(error).__name__ != "PanicException":
            raise
        raise ValueError(first_line(ValueError(error))) from error


def _said(error: Exception) -> str:
    # Behind what it says come places in lance's own source.
    return first_line(error).partition(", /")[0]


class _Table:
    """The table's fragments as rows."""

    def __init__(self, dataset: "LanceDataset", path: Path, column: ImageColumn) -> None:
        self._at, self._column = path.name, column
        self._key = file_key(path)
        self._blob = _is_blob(dataset.schema, column.name)
        self._images = _Images(dataset, column)
        self._offset = 0
        """Of the next row among the living ones."""

    def rows(self, fragment: "LanceFragment", numbers: Iterator[int]) -> Iterator[RawRow]:
        version = digest([file.path for file in fragment.data_files()])
        count, done = fragment.count_rows(), 0
        try:
            with _without_panics():
                scanned = fragment.scanner(columns=self._listed(), with_row_address=True, batch_size=_ROWS)
                for batch in scanned.to_batches():
                    pictures = None if self._column.form == "name" else self._pictures(batch, version)
                    yield from table_rows(batch, self._column, pictures, numbers)
                    done += batch.num_rows
                    self._offset += batch.num_rows
        except _DAMAGE as error:
            for place in range(self._offset + 1, self._offset + 1 + count - done):
                text = f"{self._at}#{place}"
                yield malformed(next(numbers), text, f"{text}: fragment {fragment.fragment_id}: {_said(error)}")
            self._offset += count - done

    def _listed(self) -> list[str]:
        named = [f"{self._column.name}.path"] if self._column.has_path else []
        return [*self._column.columns, *named, *([self._column.name] if self._blob else [])]

    def _pictures(self, batch: pa.RecordBatch, version: str) -> Iterator[Picture]:
        name = self._column.name
        paths = batch[f"{name}.path"].to_pylist() if self._column.has_path else [None] * batch.num_rows
        blobs = batch[name].to_pylist() if self._blob else [{}] * batch.num_rows
        for row, (address, path, blob) in enumerate(zip(batch[_ADDRESS].to_pylist(), paths, blobs, strict=True)):
            at = f"{self._at}#{self._offset + row + 1}"
            if blob is not None and blob.get("kind", 0) not in _INSIDE:
                yield Picture(None, None, f"{at} is kept outside of the table, at {blob.get('blob_uri')}"[:300])
            elif blob is None or blob.get("size") == 0:
                yield Picture(None, None)
            else:
                read = self._images.blob if self._blob else self._images.cell
                origin = partial(read, at, address if self._blob else self._offset + row)
                yield Picture(path or at, ImageAt(f"{self._key}#{address}", version, None, origin))


def _is_blob(schema: pa.Schema, name: str) -> bool:
    if name not in schema.names:
        return False
    field = schema.field(name)
    extension = isinstance(field.type, pa.BaseExtensionType) and field.type.extension_name.startswith("lance.blob")
    return extension or (field.metadata or {}).get(b"lance-encoding:blob") == b"true"


class _Images:
    """Images inside the table, by the place of their row."""

    def __init__(self, dataset: "LanceDataset", column: ImageColumn) -> None:
        self._dataset, self._name, self._struct = dataset, column.name, column.form == "struct"
        self._rows = dataset.count_rows()
        self._lock = threading.Lock()
        self._blocks = ImageBlocks()

    def cell(self, at: str, offset: int) -> bytes:
        """The bytes of an image column's cell. Raises NoImageError where it is null, ValueError where it is damaged."""
        number = offset // IMAGES_AT_ONCE
        with self._lock:
            block = self._blocks.get(number)
            if block is None:
                block = self._read(number * IMAGES_AT_ONCE)
                self._blocks.keep(number, block)
        return _found(at, block[offset % IMAGES_AT_ONCE].as_py())

    def blob(self, at: str, address: int) -> bytes:
        """The bytes of a blob. Raises as `cell` does."""
        try:
            with _without_panics():
                ((_, content),) = self._dataset.read_blobs(self._name, addresses=[address])
        except _DAMAGE as error:
            raise ValueError(f"{at}: {_said(error)}") from error
        return _found(at, content)

    def _read(self, start: int) -> pa.Array:
        end = min(start + IMAGES_AT_ONCE, self._rows)
        try:
            column = f"{self._name}.bytes" if self._struct else self._name
            with _without_panics():
                found = self._dataset.take(list(range(start, end)), columns=[column])[self._name].combine_chunks()
        except _DAMAGE as error:
            raise ValueError(f"rows {start + 1} to {end}: {_said(error)}") from error
        return found.flatten()[0] if self._struct else found


def _found(at: str, content: bytes | None) -> bytes:
    if content is None:
        raise NoImageError(f"{at} holds no image")
    return content
