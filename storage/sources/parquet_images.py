"""Images inside Parquet files, read a few at a time when the threads of the decoder ask for them."""

import threading
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from pairloom.storage.images.location import NoImageError, Origin, file_version
from pairloom.storage.sources.image_blocks import IMAGES_AT_ONCE, ImageBlocks
from pairloom.storage.sources.image_column import ImageColumn
from pairloom.storage.sources.raw_row import first_line

_OPEN = 16
"""Readers of row groups at a time."""

DAMAGE = (pa.ArrowException, OSError, UnicodeDecodeError, OverflowError)
"""What pyarrow raises where a file isn't whole."""


def open_parquet(path: Path) -> pq.ParquetFile:
    """The file, its pages checked. Read through a small buffer: else all images of a row group are read at once."""
    return pq.ParquetFile(path, buffer_size=2**16, page_checksum_verification=True)


@dataclass(frozen=True)
class ImageTable:
    """One Parquet file with images."""

    path: Path
    at: str
    """As people know it."""
    version: str
    """Of the file, when it was listed."""
    column: ImageColumn
    starts: tuple[int, ...]
    """The first row of each row group, and the number of all."""


class ParquetImage(NamedTuple):
    """One image, not read yet."""

    images: "ParquetImages"
    table: ImageTable
    row: int
    """In the file, from 0."""
    beside: Origin | None
    """The image's file, where the table holds a path only."""

    def read(self) -> bytes:
        """Its bytes. Raises NoImageError where there are none, ValueError or OSError where they can't be read."""
        content = self.images.read(self.table, self.row)
        if content is not None:
            return content
        if not isinstance(self.beside, Path):
            raise NoImageError(f"{self.table.at}#{self.row + 1} holds no image")
        return self.beside.read_bytes()


class ParquetImages:
    """The images that were asked for last; for several threads at once."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._blocks = ImageBlocks()
        self._readers: list[_Reader] = []
        """The one used last stands last."""
        self._damaged: dict[tuple[Path, int], tuple[int, str]] = {}
        """First block of a row group that can't be read, and why."""

    def read(self, table: ImageTable, row: int) -> bytes | None:
        """The bytes of one image. Raises ValueError where they are damaged, OSError where the system refuses."""
        group = bisect_right(table.starts, row) - 1
        number, place = divmod(row - table.starts[group], IMAGES_AT_ONCE)
        with self._lock:
            block = self._block(table, group, number)
        return block[place].as_py()  # type: ignore[no-any-return] # a binary scalar

    def _block(self, table: ImageTable, group: int, number: int) -> pa.Array:
        key = (table.path, group)
        while (block := self._kept(key, number)) is None:
            damaged = self._damaged.get(key)
            if damaged and number >= damaged[0]:
                raise ValueError(f"row group {group + 1} of {table.at} is damaged: {damaged[1]}")
            reader = self._reader(table, group, number)
            try:
                reader.block = next(reader.blocks)
            except StopIteration:
                self._damaged[key] = (reader.given, "it has fewer rows than it says")
            except (*DAMAGE, ValueError) as error:
                if isinstance(error, OSError) and error.errno is not None:
                    raise
                self._damaged[key] = (reader.given, first_line(error))
            else:
                self._blocks.keep((*key, reader.given), reader.block)
                reader.given += 1
                if table.starts[group] + reader.given * IMAGES_AT_ONCE < table.starts[group + 1]:
                    self._readers.append(reader)
                    del self._readers[:-_OPEN]
        return block

    def _kept(self, key: tuple[Path, int], number: int) -> pa.Array | None:
        """A block that was read before. What a reader gave last is its own: others' blocks can't drive it out."""
        block = self._blocks.get((*key, number))
        last = (each.block for each in self._readers if each.key == key and each.given == number + 1)
        return next(last, None) if block is None else block

    def _reader(self, table: ImageTable, group: int, number: int) -> "_Reader":
        """What has the shortest way to a block. Threads that are far apart come to have readers of their own."""
        key = (table.path, group)
        fitting = [each for each in self._readers if each.key == key and each.given <= number]
        if not fitting:
            return _Reader(key, _blocks(table, group))
        reader = max(fitting, key=lambda each: each.given)
        self._readers.remove(reader)
        return reader


class _Reader:
    """Gives the images of one row group in their order."""

    def __init__(self, key: tuple[Path, int], blocks: Iterator[pa.Array]) -> None:
        self.key, self.blocks = key, blocks
        self.given = 0
        """Blocks so far."""
        self.block: pa.Array | None = None
        """The last of them."""


def _blocks(table: ImageTable, group: int) -> Iterator[pa.Array]:
    struct = table.column.form == "struct"
    leaf = f"{table.column.name}.bytes" if struct else table.column.name
    with open_parquet(table.path) as file:
        if file_version(table.path.stat()) != table.version:
            raise ValueError("it has changed since it was listed")
        for batch in file.iter_batches(IMAGES_AT_ONCE, row_groups=[group], columns=[leaf]):
            array = batch[table.column.name]
            array = array.flatten()[0] if struct else array
            yield array.dictionary_decode() if pa.types.is_dictionary(array.type) else array
