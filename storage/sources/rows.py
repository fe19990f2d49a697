"""Sources: caption files and image folders, read as typed rows; what cannot be one is rejected with a reason."""

import difflib
import functools
import itertools
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pairloom.storage.digest import digest
from pairloom.storage.sources.columns import ColumnsConfig, KeptColumn, Metadata, typed
from pairloom.storage.sources.config import CsvSource, FolderSource, JsonlSource, SourceConfig
from pairloom.storage.sources.delimited import csv_rows
from pairloom.storage.sources.folder import FOLDER_COLUMNS, folder_rows
from pairloom.storage.sources.jsonl import jsonl_rows
from pairloom.storage.sources.raw_row import RawRow, Values

if TYPE_CHECKING:
    from pairloom.storage.sources.row_filter import RowFilter

_ROWS_PER_BATCH = 1_000

_SPLITS = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "dev": "val",
    "test": "test",
}


@dataclass(frozen=True)
class SourceRow:
    """One row that can become an item once its image is decoded."""

    source: str
    number: int
    """Line in the caption file, from 1; for a folder the image's place in the sorted listing."""
    item_id: str | None
    image: Path
    bytes: int
    """Of the image file."""
    mtime_ns: int
    """When the image file was modified, in nanoseconds."""
    image_path: str
    """The image's path as the source wrote it."""
    texts: tuple[str, ...]
    group: str | None
    split: str | None
    metadata: dict[str, Metadata]

    @property
    def fingerprint(self) -> str:
        """Digest of the source's name, what this row says (as `columns` reads it), and the image's size and time."""
        said = [self.source, self.item_id, self.image_path, self.texts, self.group, self.split, repr(self.metadata)]
        return digest([*said, self.bytes, self.mtime_ns])


@dataclass(frozen=True)
class RejectedRow:
    """One row that cannot: `quarantined`, or `filtered` by the source's `where`.

    Reasons: malformed-row, id-missing, image-missing, image-not-found, image-outside-base, text-empty, split-unknown,
    metadata-type; where.
    """

    source: str
    number: int
    fingerprint: str
    item_id: str | None
    image_path: str | None
    outcome: Literal["quarantined", "filtered"]
    reason: str
    message: str


def read_source(config: SourceConfig, columns: ColumnsConfig) -> Iterator[SourceRow | RejectedRow]:
    """Every row of a source, in its order, none left out.

    Raises ValueError, before the first row, for a source that is not there, for columns that none of its rows has, and
    for a `where` that cannot be evaluated.
    """
    _check_presence(config)
    _check_columns(config, columns)
    keep = None
    if config.where is not None:
        # DuckDB, for sources that are filtered.
        from pairloom.storage.sources.row_filter import RowFilter

        typed = not isinstance(config, CsvSource)
        keep = RowFilter(config.where, config.label, (raw.values for raw in _raw_rows(config)), typed=typed)
    return _rows(config, columns, keep)


def _raw_rows(config: SourceConfig) -> Iterator[RawRow]:
    match config:
        case JsonlSource():
            return jsonl_rows(config.path)
        case CsvSource():
            return csv_rows(config.path, config.delimiter)
        case FolderSource():
            return folder_rows(config.path)


def _check_presence(config: SourceConfig) -> None:
    folder = isinstance(config, FolderSource)
    if not (config.path.is_dir() if folder else config.path.is_file()):
        what = "folder" if folder else "caption file"
        raise ValueError(f"source {config.label}: there is no {what} {config.path}; correct `path`")
    if not os.access(config.path, os.R_OK):
        raise ValueError(f"source {config.label}: {config.path} may not be read; change its permissions")
    if not config.image_folder.is_dir():
        raise ValueError(
            f"source {config.label}: there is no folder {config.image_folder}; correct `base`, where image paths start"
        )


def _check_columns(config: SourceConfig, columns: ColumnsConfig) -> None:
    named: dict[str, list[str | None]] = {
        "id": [columns.id],
        "image": [columns.image],
        "texts": [*columns.texts],
        "group": [columns.group],
        "split": [columns.split],
        "keep": [kept.column for kept in columns.kept.values()],
    }
    if isinstance(config, FolderSource):
        named["image"] = named["texts"] = []
    missing = {(column, use): None for use, group in named.items() for column in group if column is not None}
    present: dict[str, None] = dict.fromkeys(FOLDER_COLUMNS) if isinstance(config, FolderSource) else {}
    rows = _raw_rows(config)
    # The first row usually has them all, and nothing more is read.
    while missing := {each: None for each in missing if each[0] not in present}:
        raw = next(rows, None)
        if raw is None:
            break
        present |= dict.fromkeys(raw.values)
    for column, use in missing:
        if present:
            near = difflib.get_close_matches(column, present, n=3, cutoff=0.5)
            hint = f"did you mean {' or '.join(near)}? " if near else ""
            raise ValueError(
                f"no row of source {config.label} has the column {column} that `columns.{use}` names: "
                f"{hint}It has {', '.join(present)}"
            )


def _rows(config: SourceConfig, columns: ColumnsConfig, keep: "RowFilter | None") -> Iterator[SourceRow | RejectedRow]:
    reader = _RowReader(config, columns)
    rows = _raw_rows(config)
    while batch := list(itertools.islice(rows, _ROWS_PER_BATCH)):
        kept = None if keep is None else keep.kept([raw.values for raw in batch])
        for place, raw in enumerate(batch):
            yield reader.read(raw, filtered=kept is not None and place not in kept)


class _RejectedError(Exception):
    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message


class _RowReader:
    """Turns raw rows of one source into typed ones."""

    def __init__(self, config: SourceConfig, columns: ColumnsConfig) -> None:
        self._source = config.label
        self._where = config.where
        self._columns = columns
        self._kept = columns.kept
        folder = isinstance(config, FolderSource)
        self._image_column = "image" if folder else columns.image
        self._text_columns = ["text"] if folder else columns.texts
        self._images = _ImageFolder(config.image_folder)

    def read(self, raw: RawRow, *, filtered: bool) -> SourceRow | RejectedRow:
        item_id = image_path = None
        outcome: Literal["quarantined", "filtered"] = "quarantined"
        try:
            if raw.problem is not None:
                raise _RejectedError("malformed-row", raw.problem)
            item_id = self._name(raw.values, self._columns.id)
            image_path = self._name(raw.values, self._image_column)
            if filtered:
                outcome = "filtered"
                raise _RejectedError("where", f"where: {self._where} is not true")
            return self._understood(raw, item_id, image_path)
        except _RejectedError as rejection:
            return RejectedRow(
                source=self._source,
                number=raw.number,
                fingerprint=digest([self._source, raw.text, rejection.reason]),
                item_id=item_id,
                image_path=image_path,
                outcome=outcome,
                reason=rejection.reason,
                # A file's name may hold bytes that are not UTF-8.
                message=rejection.message.encode(errors="backslashreplace").decode(),
            )

    def _understood(self, raw: RawRow, item_id: str | None, image_path: str | None) -> SourceRow:
        if self._columns.id is not None and item_id is None:
            raise _RejectedError("id-missing", f"column {self._columns.id} is empty")
        if image_path is None:
            raise _RejectedError("image-missing", f"column {self._image_column} is empty")
        texts = self._texts(raw.values)
        if not texts:
            raise _RejectedError("text-empty", f"no text in {', '.join(self._text_columns)}")
        group = self._name(raw.values, self._columns.group)
        split = self._name(raw.values, self._columns.split)
        if split is not None:
            if split.lower() not in _SPLITS:
                raise _RejectedError("split-unknown", f"split {split!r} is none of train, val, test")
            split = _SPLITS[split.lower()]
        metadata = {name: _metadata(name, kept, raw.values) for name, kept in self._kept.items()}
        image, status = self._images.find(image_path)
        return SourceRow(
            source=self._source,
            number=raw.number,
            item_id=item_id,
            image=image,
            bytes=status.st_size,
            mtime_ns=status.st_mtime_ns,
            image_path=image_path,
            texts=texts,
            group=group,
            split=split,
            metadata=metadata,
        )

    def _name(self, values: Values, column: str | None) -> str | None:
        """An id, path, group or split: a non-empty string, or a number written as one."""
        if column is None:
            return None
        match values.get(column):
            case None:
                return None
            case bool() | list() | dict() as other:
                raise _RejectedError("malformed-row", f"column {column} holds a {type(other).__name__}, not a string")
            case value:
                # A path may begin or end with a blank.
                return (str(value) if column == self._image_column else str(value).strip()) or None

    def _texts(self, values: Values) -> tuple[str, ...]:
        found: dict[str, None] = {}
        for column in self._text_columns:
            value = values.get(column)
            for each in value if isinstance(value, list) else [value]:
                if isinstance(each, bool | list | dict):
                    raise _RejectedError("malformed-row", f"column {column} holds a {type(each).__name__}, not a text")
                text = "" if each is None else str(each).strip()
                if text:
                    found[text] = None
        return tuple(found)


class _ImageFolder:
    """Finds images below one folder, which no path may leave: captions are strangers' text."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._resolved = folder.resolve()
        # Rows come folder by folder: each is resolved once.
        self._resolved_folder = functools.lru_cache(maxsize=1_024)(os.path.realpath)

    def find(self, image_path: str) -> tuple[Path, os.stat_result]:
        if "\0" in image_path:
            raise _RejectedError("malformed-row", "the image's path holds a NUL character")
        if image_path.partition("://")[0] in ("http", "https", "s3", "gs", "data"):
            raise _RejectedError("image-not-found", f"{image_path[:200]} is an address: download the image first")
        path = self._folder / image_path
        # Resolved before it is looked at, so that nothing can be learnt about files elsewhere.
        real = Path(self._resolved_folder(path.parent), path.name) if path.name not in ("", "..") else path.resolve()
        try:
            if real.is_symlink():
                real = real.resolve()
            if not real.is_relative_to(self._resolved):
                raise _RejectedError("image-outside-base", f"{image_path} is not below {self._folder}")
            status = real.stat()
        except (OSError, RuntimeError) as error:
            what = error.strerror if isinstance(error, OSError) else str(error)
            raise _RejectedError("image-not-found", f"{image_path[:1_000]} in {self._folder}: {what}") from error
        if not stat.S_ISREG(status.st_mode):
            raise _RejectedError("image-not-found", f"{image_path} in {self._folder} is not a file")
        return path, status


def _metadata(name: str, kept: KeptColumn, values: Values) -> Metadata:
    value = values.get(kept.column)
    try:
        return typed(value, kept.type)
    except (ValueError, TypeError, OverflowError) as error:
        shown = f"{name}: {value!r:.80} in column {kept.column} is no {kept.type}"
        raise _RejectedError("metadata-type", shown) from error
