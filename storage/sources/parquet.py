"""Rows of Parquet files, of what `datasets.save_to_disk` writes, and of another pipeline's corpus."""

import itertools
import json
import threading
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from pairloom.storage.corpus import Corpus
from pairloom.storage.images.location import ImageAt, NoImageError
from pairloom.storage.sources.arrow_stream import arrow_rows, arrow_schema
from pairloom.storage.sources.config import ParquetSource
from pairloom.storage.sources.image_blocks import IMAGES_AT_ONCE, ImageBlocks
from pairloom.storage.sources.image_column import ImageColumn, Picture, image_column, table_rows
from pairloom.storage.sources.image_folder import ImageFolder
from pairloom.storage.sources.raw_row import MOST_LOST, RawRow, first_line, malformed
from pairloom.storage.sources.shards import shard_files, shown
from pairloom.storage.sources.source_row import RejectedRowError

_ROWS = 1_000
"""Rows listed at once."""
_OPEN = 4
"""Row groups that are read from at a time."""
DAMAGE = (pa.ArrowException, OSError, UnicodeDecodeError, OverflowError)
"""What pyarrow raises where a file isn't whole."""


def parquet_rows(config: ParquetSource, path: Path, name: str) -> Iterator[RawRow]:
    """The rows of the file at `path`, or of all in that folder, one after another; `name` is the image column.

    Images are read when they are asked for.

    A file that can't be read is one malformed row; so is each row that a damaged page leaves unread: those of its row
    group from there on.
    """
    numbers, images, folder = itertools.count(1), _Images(), config.image_folder(path)
    for file in _files(path):
        at = shown(file.path, path)
        try:
            if file.path.suffix == ".arrow":
                yield from arrow_rows(file.path, at, name, numbers)
            else:
                with _opened(file.path) as opened:
                    table = _Table(
                        file, opened, image_column(opened.schema_arrow, name), at, images, config.image_folder(path)
                    )
                    yield from table.rows(numbers)
        except (*DAMAGE, ValueError) as error:
            yield malformed(next(numbers), at, f"{at}: {first_line(error)}")


def parquet_schema(paths: Sequence[Path]) -> pa.Schema:
    """The columns of the first file that can be read. Raises ValueError where there is none."""
    problem = ""
    for file in itertools.chain.from_iterable(_files(path) for path in paths):
        try:
            return arrow_schema(file.path) if file.path.suffix == ".arrow" else pq.read_schema(file.path)
        except DAMAGE as error:
            problem = problem or f"{file.path} can't be read: {first_line(error)}"
    raise ValueError(problem or f"there are no Parquet files at {paths[0]}")


class _File(NamedTuple):
    path: Path
    living: frozenset[str] | None = None
    """Ids of the items that count, where not all do."""


def _files(path: Path) -> list[_File]:
    folder = path.parent if path.name == "corpus" else path
    if (folder / "snapshots").is_dir() and (folder / "corpus").is_dir():
        corpus = Corpus(folder)
        snapshot = corpus.current()
        return [
            _File(corpus.part_path(part), frozenset(corpus.part_ids(snapshot, part).to_pylist()))
            for part in snapshot.parts
        ]
    found = shard_files(path, (".parquet", ".arrow"))
    states = {each: _saved_files(each) for each in {file.parent for file in found}} if path.is_dir() else {}
    # `datasets` also keeps the results of computations beside the files that make the dataset.
    return [_File(file) for file in found if (names := states.get(file.parent)) is None or file.name in names]


def _saved_files(folder: Path) -> list[str] | None:
    """Names of the files that `datasets.save_to_disk` says make the dataset in `folder`, None where it says nothing."""
    try:
        state = json.loads((folder / "state.json").read_bytes())
        return [str(each["filename"]) for each in state["_data_files"]]
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _opened(path: Path) -> pq.ParquetFile:
    # Buffered: whole column chunks of images would be read otherwise.
    return pq.ParquetFile(path, buffer_size=2**16, page_checksum_verification=True)


class _Table:
    """One Parquet file as rows."""

    def __init__(
        self,
        file: _File,
        opened: pq.ParquetFile,
        column: ImageColumn,
        at: str,
        images: "_Images",
        folder: Path,
    ) -> None:
        self._file, self._opened, self._column, self._at = file, opened, column, at
        self._images, self._beside = images, ImageFolder(folder)
        status = file.path.stat()
        self._version = f"{status.st_size}:{status.st_mtime_ns}"
        self._key = str(file.path).encode(errors="backslashreplace").decode()
        groups = [opened.metadata.row_group(group) for group in range(opened.num_row_groups)]
        self._starts = [0, *itertools.accumulate(group.num_rows for group in groups)]
        self._nulls = [_null_images(group, column) for group in groups]
        self._listed = [*column.columns, *([f"{column.name}.path"] if column.has_path else [])]
        self._statuses = column.form == "bytes" and {"status", "error_message"} <= set(column.columns)

    def rows(self, numbers: Iterator[int]) -> Iterator[RawRow]:
        for start, found in self._batches():
            if isinstance(found, str):
                yield malformed(next(numbers), f"{self._at}#{start + 1}", f"{self._at}#{start + 1}: {found}")
                continue
            batch = found
            places = list(range(start, start + batch.num_rows))
            if self._file.living is not None:
                # What left the corpus still stands in its part.
                kept = [row for row, each in enumerate(batch["item_id"].to_pylist()) if each in self._file.living]
                batch, places = batch.take(pa.array(kept, pa.int64())), [places[row] for row in kept]
            pictures = None if self._column.form == "name" else self._pictures(batch, places)
            yield from table_rows(batch, self._column, pictures, numbers)

    def _batches(self) -> Iterator[tuple[int, pa.RecordBatch | str]]:
        """Batches with the place of their first row, from 0; rows that can't be read with what is wrong."""
        done = 0
        try:
            for batch in self._opened.iter_batches(_ROWS, columns=self._listed):
                yield done, batch
                done += batch.num_rows
            if done != self._opened.metadata.num_rows:
                yield done, f"the file says that it has {self._opened.metadata.num_rows} rows"
        except DAMAGE:
            for group, (start, end) in enumerate(itertools.pairwise(self._starts)):
                if end > done:
                    yield from self._rest(group, max(start, done), start, end)

    def _rest(self, group: int, done: int, at: int, end: int) -> Iterator[tuple[int, pa.RecordBatch | str]]:
        """Of one row group, whose rows up to `done` are listed already, what can be read."""
        try:
            for batch in self._opened.iter_batches(_ROWS, row_groups=[group], columns=self._listed):
                if at + batch.num_rows > done:
                    yield done, batch.slice(done - at)
                    done = at + batch.num_rows
                at += batch.num_rows
        except DAMAGE as error:
            for row in range(done, min(end, done + MOST_LOST)):
                yield row, f"row group {group + 1} is damaged: {first_line(error)}"

    def _pictures(self, batch: pa.RecordBatch, places: list[int]) -> Iterator[Picture]:
        name, struct = self._column.name, None
        if self._column.has_path:
            struct = batch[name]
            paths, valid = struct.field("path").to_pylist(), struct.is_valid().to_pylist()
        states = batch["status"].to_pylist() if self._statuses else None
        for row, place in enumerate(places):
            path = (paths[row] or None) if struct is not None else None
            if struct is not None and not valid[row]:
                yield Picture(None, None)
            elif states is not None and states[row] != "success":
                yield Picture(None, None, f"{states[row]}: {batch['error_message'][row].as_py()}")
            else:
                yield self._picture(place, path)

    def _picture(self, place: int, path: str | None) -> Picture:
        group = bisect_right(self._starts, place) - 1
        nulls = self._nulls[group]
        if nulls == "all":
            return Picture(path, None)
        beside = self._find(path) if nulls == "some" and path else None
        at = f"{self._at}#{place + 1}"
        read = partial(
            self._images.read, _Cell(self._file.path, self._version, self._column, group, place - self._starts[group])
        )
        image = ImageAt(
            key=f"{self._key}#{place + 1}",
            version=f"{self._version}:{beside.version}" if beside else self._version,
            length=None,
            origin=partial(_bytes_or_file, read, at, beside),
        )
        return Picture(path or at, image)

    def _find(self, path: str) -> ImageAt | None:
        try:
            return self._beside.find(path)
        except RejectedRowError:
            return None


def _bytes_or_file(read: "partial[bytes | None]", at: str, beside: ImageAt | None) -> bytes:
    content = read()
    if content is not None:
        return content
    if beside is None or not isinstance(beside.origin, Path):
        raise NoImageError(f"{at} holds no image")
    return beside.origin.read_bytes()


def _null_images(group: pq.RowGroupMetaData, column: ImageColumn) -> str:
    """How many of a row group's images are null, as far as its statistics tell: none, some, all; or unknown."""
    leaf = f"{column.name}.bytes" if column.form == "struct" else column.name
    for index in range(group.num_columns):
        chunk = group.column(index)
        if chunk.path_in_schema == leaf:
            nulls = chunk.statistics.null_count if chunk.statistics and chunk.statistics.has_null_count else None
            return (
                "unknown" if nulls is None else "none" if nulls == 0 else "all" if nulls == group.num_rows else "some"
            )
    return "unknown"


class _Cell(NamedTuple):
    path: Path
    version: str
    column: ImageColumn
    group: int
    row: int
    """In its row group."""


class _Images:
    """Images inside Parquet files, read a few at a time: the threads of the decoder ask for neighbours."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._blocks = ImageBlocks()
        self._readers: OrderedDict[tuple[Path, int], Iterator[pa.Array]] = OrderedDict()
        self._read: dict[tuple[Path, int], int] = {}
        """Blocks that each reader has given."""
        self._damaged: dict[tuple[Path, int], tuple[int, str]] = {}
        """First block that can't be read, and why."""

    def read(self, cell: _Cell) -> bytes | None:
        """The bytes of one image. Raises ValueError where they can't be read."""
        with self._lock:
            block = self._block(cell, cell.row // IMAGES_AT_ONCE)
        value = block[cell.row % IMAGES_AT_ONCE]
        return value.as_py()  # type: ignore[no-any-return] # a binary scalar

    def _block(self, cell: _Cell, number: int) -> pa.Array:
        place = (cell.path, cell.group)
        while (block := self._blocks.get((*place, number))) is None:
            damaged = self._damaged.get(place)
            if damaged and number >= damaged[0]:
                raise ValueError(f"row group {cell.group + 1} of {cell.path.name} is damaged: {damaged[1]}")
            if self._read.get(place, 0) > number or place not in self._readers:
                self._open(cell)
            self._next(place)
        return block

    def _open(self, cell: _Cell) -> None:
        place = (cell.path, cell.group)
        self._readers[place], self._read[place] = _blocks(cell), 0
        self._readers.move_to_end(place)
        while len(self._readers) > _OPEN:
            closed, _ = self._readers.popitem(last=False)
            self._read.pop(closed)

    def _next(self, place: tuple[Path, int]) -> None:
        number = self._read[place]
        try:
            block = next(self._readers[place], None)
            if block is None:
                raise ValueError("it has fewer rows than it says")
        except (*DAMAGE, ValueError) as error:
            self._damaged[place] = (number, first_line(error))
            return
        self._read[place] = number + 1
        self._blocks.keep((*place, number), block)


def _blocks(cell: _Cell) -> Iterator[pa.Array]:
    """The images of one row group, `IMAGES_AT_ONCE` at a time."""
    struct = cell.column.form == "struct"
    leaf = f"{cell.column.name}.bytes" if struct else cell.column.name
    with _opened(cell.path) as file:
        status = cell.path.stat()
        if f"{status.st_size}:{status.st_mtime_ns}" != cell.version:
            raise ValueError("it has changed since it was listed")
        for batch in file.iter_batches(IMAGES_AT_ONCE, row_groups=[cell.group], columns=[leaf]):
            array = batch[cell.column.name]
            array = array.flatten()[0] if struct else array
            yield array.dictionary_decode() if pa.types.is_dictionary(array.type) else array
