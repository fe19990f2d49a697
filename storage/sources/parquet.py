"""Rows of Parquet files, of what `datasets.save_to_disk` writes, and of another pipeline's corpus."""

import itertools
import json
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from pairloom.storage.corpus import Corpus
from pairloom.storage.digest import digest
from pairloom.storage.images.location import ImageAt, file_key, file_version
from pairloom.storage.sources.arrow_stream import arrow_rows, arrow_schema
from pairloom.storage.sources.config import ParquetSource
from pairloom.storage.sources.image_column import ImageColumn, Picture, image_column, table_rows
from pairloom.storage.sources.image_folder import ImageFolder
from pairloom.storage.sources.parquet_images import DAMAGE, ImageTable, ParquetImage, ParquetImages, open_parquet
from pairloom.storage.sources.raw_row import MOST_LOST, RawRow, first_line, malformed
from pairloom.storage.sources.shards import shard_files, shown
from pairloom.storage.sources.source_row import RejectedRowError

_ROWS = 1_000
"""Rows listed at once."""


def parquet_rows(config: ParquetSource, path: Path, name: str) -> Iterator[RawRow]:
    """The rows of the file at `path`, or of all in that folder, one after another; `name` is the image column.

    Images are read when they are asked for.

    A file that can't be read is one malformed row; so is each row that a damaged page leaves unread: those of its row
    group from there on.
    """
    numbers, images, folder = itertools.count(1), ParquetImages(), config.image_folder(path)
    for file in _files(path):
        at = shown(file.path, path)
        try:
            if file.path.suffix == ".arrow":
                yield from arrow_rows(file.path, at, name, numbers)
            else:
                with open_parquet(file.path) as opened:
                    table = _Table(file, opened, image_column(opened.schema_arrow, name), at, images, folder)
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


def parquet_version(path: Path) -> str:
    """What changes with anything in the file at `path`, or in the files of that folder."""
    if corpus := _corpus(path):
        return corpus.current().digest
    return digest([(str(file.path), file_version(file.path.stat())) for file in _files(path)])


class _File(NamedTuple):
    path: Path
    living: frozenset[str] | None = None
    """Ids of the items that count, where not all do."""


def _files(path: Path) -> list[_File]:
    if corpus := _corpus(path):
        snapshot = corpus.current()
        return [
            _File(corpus.part_path(part), frozenset(corpus.part_ids(snapshot, part).to_pylist()))
            for part in snapshot.parts
        ]
    found = shard_files(path, (".parquet", ".arrow"))
    states = {each: _saved_files(each) for each in {file.parent for file in found}} if path.is_dir() else {}
    # `datasets` also keeps the results of computations beside the files that make the dataset.
    return [_File(file) for file in found if (names := states.get(file.parent)) is None or file.name in names]


def _corpus(path: Path) -> Corpus | None:
    """That of another pipeline, where `path` is its folder."""
    folder = path.parent if path.name == "corpus" else path
    return Corpus(folder) if (folder / "snapshots").is_dir() and (folder / "corpus").is_dir() else None


def _saved_files(folder: Path) -> list[str] | None:
    """Names of the files that `datasets.save_to_disk` says make the dataset in `folder`, None where it says nothing."""
    try:
        state = json.loads((folder / "state.json").read_bytes())
        return [str(each["filename"]) for each in state["_data_files"]]
    except (OSError, ValueError, KeyError, TypeError):
        return None


class _Table:
    """One Parquet file as rows."""

    def __init__(
        self,
        file: _File,
        opened: pq.ParquetFile,
        column: ImageColumn,
        at: str,
        images: ParquetImages,
        folder: Path,
    ) -> None:
        self._file, self._opened, self._column, self._images = file, opened, column, images
        self._beside = ImageFolder(folder)
        self._key = file_key(file.path)
        groups = [opened.metadata.row_group(group) for group in range(opened.num_row_groups)]
        self._table = ImageTable(
            path=file.path,
            at=at,
            version=file_version(file.path.stat()),
            column=column,
            starts=(0, *itertools.accumulate(group.num_rows for group in groups)),
        )
        self._nulls = [_null_images(group, column) for group in groups]
        self._listed = [*column.columns, *([f"{column.name}.path"] if column.has_path else [])]
        self._statuses = column.form == "bytes" and {"status", "error_message"} <= set(column.columns)

    def rows(self, numbers: Iterator[int]) -> Iterator[RawRow]:
        for start, found in self._batches():
            if isinstance(found, str):
                at = f"{self._table.at}#{start + 1}"
                yield malformed(next(numbers), at, f"{at}: {found}")
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
            for group, (start, end) in enumerate(itertools.pairwise(self._table.starts)):
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
        all_inside = not {"some", "all"}.intersection(self._nulls)
        for row, place in enumerate(places):
            path = (paths[row] or None) if struct is not None else None
            if struct is not None and not valid[row]:
                yield Picture(None, None)
            elif states is not None and states[row] != "success":
                yield Picture(None, None, f"{states[row]}: {batch['error_message'][row].as_py()}")
            else:
                yield self._inside(place, path) if all_inside else self._picture(place, path)

    def _picture(self, place: int, path: str | None) -> Picture:
        """Where some images are null, their paths name files, whose versions count."""
        nulls = self._nulls[bisect_right(self._table.starts, place) - 1]
        if nulls == "all":
            return Picture(path, None)
        beside = self._find(path) if nulls == "some" and path else None
        if beside is None:
            return self._inside(place, path)
        image = ImageAt(
            key=f"{self._key}#{place + 1}",
            version=f"{self._table.version}:{beside.version}",
            length=None,
            origin=ParquetImage(self._images, self._table, place, beside.origin).read,
            beside=True,
        )
        return Picture(path, image)

    def _inside(self, place: int, path: str | None) -> Picture:
        origin = ParquetImage(self._images, self._table, place, None).read
        image = ImageAt(f"{self._key}#{place + 1}", self._table.version, None, origin)
        return Picture(path or f"{self._table.at}#{place + 1}", image)

    def _find(self, path: str) -> ImageAt | None:
        try:
            return self._beside.find(path)
        except RejectedRowError:
            return None


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
