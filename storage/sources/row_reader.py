"""What each column of a raw row means, in the types that are stored."""

import os
from collections.abc import Sequence
from pathlib import Path

from pairloom.storage.digest import digest
from pairloom.storage.images.location import ImageAt
from pairloom.storage.sources.columns import ColumnsConfig, KeptColumn, Metadata, OnBadCell, typed
from pairloom.storage.sources.config import FolderSource, SourceConfig
from pairloom.storage.sources.folder import FOLDER_COLUMNS
from pairloom.storage.sources.image_folder import ImageFolder, likely_base
from pairloom.storage.sources.raw_row import RawRow, Values
from pairloom.storage.sources.source_row import Notes, RejectedRow, RejectedRowError, SourceRow

_SPLITS = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "dev": "val",
    "test": "test",
}

IMAGES_LOOKED_FOR = 5
"""Where no image is found, so many are looked for in folders near by."""


class RowReader:
    """Understands the rows of one source."""

    def __init__(self, config: SourceConfig, columns: ColumnsConfig, on_bad_cell: OnBadCell, notes: Notes) -> None:
        self._notes = notes
        self._config = config
        self._source = config.label
        files = config.files
        self._file = files[0]
        self._names = _names(files) if len(files) > 1 else {}
        self._where = config.where
        self._columns = columns
        self._quarantines = (config.on_bad_cell or on_bad_cell) == "quarantine"
        self._kept = columns.kept
        folder = isinstance(config, FolderSource)
        self._image_column = "image" if folder else columns.image
        self._text_columns = _folder_texts(columns) if folder else columns.texts
        self._sidecars = isinstance(config, FolderSource) and config.text_from == "sidecar"
        self._found = self._missing = 0
        self._absent: list[str] = []
        """The first images that are not there, all of one file's."""
        self._images: dict[Path, ImageFolder] = {}

    def read(self, raw: RawRow, *, kept: bool = True, undecided: str | None = None) -> SourceRow | RejectedRow:
        """The row, if it is `kept` by `where`; `undecided` says why that could not be told."""
        item_id = image_path = None
        try:
            try:
                values = raw.values()
            except RejectedRowError:
                raise
            except ValueError as error:
                raise RejectedRowError("malformed-row", str(error)) from error
            item_id = self._name(values, self._columns.id)
            image_path = self._name(values, self._image_column)
            if undecided is not None:
                raise RejectedRowError("where-undecided", undecided)
            if not kept:
                raise RejectedRowError("where", f"where: {self._where} is not true", "filtered")
            return self._understood(raw, values, item_id, image_path)
        except RejectedRowError as rejection:
            return RejectedRow(
                source=self._source,
                number=raw.number,
                fingerprint=digest([self._source, raw.text, rejection.reason]),
                item_id=item_id,
                image_path=image_path,
                outcome=rejection.outcome,
                reason=rejection.reason,
                # A file's name may hold bytes that are not UTF-8.
                message=rejection.message.encode(errors="backslashreplace").decode(),
                file=self._named(raw),
            )

    def _understood(self, raw: RawRow, values: Values, item_id: str | None, image_path: str | None) -> SourceRow:
        if self._columns.id is not None and item_id is None:
            raise RejectedRowError("id-missing", f"column {self._columns.id} is empty")
        if image_path is None:
            raise RejectedRowError("image-missing", f"column {self._image_column} is empty")
        texts = self._texts(values)
        if not texts:
            where = f"{', '.join(self._text_columns)}"
            if self._sidecars:
                where = f"{Path(image_path).with_suffix('.txt')}, expected beside the image"
            raise RejectedRowError("text-empty", f"no text in {where}")
        group = self._name(values, self._columns.group)
        split = self._name(values, self._columns.split)
        if split is not None:
            if split.lower() not in _SPLITS:
                raise RejectedRowError("split-unknown", f"split {split!r} is none of train, val, test")
            split = _SPLITS[split.lower()]
        metadata = {name: self._metadata(name, kept, values) for name, kept in self._kept.items()}
        return SourceRow(
            source=self._source,
            number=raw.number,
            item_id=item_id,
            image=raw.image or self._find(raw, image_path),
            image_path=image_path,
            texts=texts,
            group=group,
            split=split,
            metadata=metadata,
            file=self._named(raw),
        )

    def _find(self, raw: RawRow, image_path: str) -> ImageAt:
        try:
            found = self._folder(raw).find(image_path)
        except RejectedRowError as error:
            if error.reason == "image-not-found":
                self._missing += 1
                if len(self._absent) < IMAGES_LOOKED_FOR:
                    self._absent.append(image_path)
            raise
        self._found += 1
        return found

    def conclude(self) -> None:
        """Note what stands out once all rows are read."""
        if self._missing and not self._found and not isinstance(self._config, FolderSource):
            folder = self._config.image_folder(self._file)
            base = likely_base(folder, self._absent)
            hint = f"did you mean `base: {base}`?" if base else "`base` says where their paths start"
            self._notes.hints.append(
                f"source {self._source}: none of {self._missing:,} images found below {folder}, such as "
                f"{self._absent[0]:.200}; {hint}".encode(errors="backslashreplace").decode()
            )

    def _folder(self, raw: RawRow) -> ImageFolder:
        file = raw.file or self._file
        if file not in self._images:
            self._images[file] = ImageFolder(self._config.image_folder(file))
        return self._images[file]

    def _named(self, raw: RawRow) -> str | None:
        return self._names.get(raw.file) if raw.file else None

    def _name(self, values: Values, column: str | None) -> str | None:
        """An id, path, group or split: a non-empty string, or a number written as one."""
        if column is None:
            return None
        match values.get(column):
            case None:
                return None
            case bool() | list() | dict() as other:
                raise RejectedRowError("malformed-row", f"column {column} holds a {type(other).__name__}, not a string")
            case value:
                # A path may begin or end with a blank.
                return (str(value) if column == self._image_column else str(value).strip()) or None

    def _texts(self, values: Values) -> tuple[str, ...]:
        found: dict[str, None] = {}
        for column in self._text_columns:
            value = values.get(column)
            for each in value if isinstance(value, list) else [value]:
                if isinstance(each, bool | list | dict):
                    raise RejectedRowError(
                        "malformed-row", f"column {column} holds a {type(each).__name__}, not a text"
                    )
                text = "" if each is None else str(each).strip()
                if text:
                    found[text] = None
        return tuple(found)

    def _metadata(self, name: str, kept: KeptColumn | None, values: Values) -> Metadata:
        if kept is None:
            return None
        value = values.get(kept.column)
        try:
            return typed(value, kept.type)
        except (ValueError, TypeError, OverflowError) as error:
            if self._quarantines:
                shown = f"{name}: {value!r:.80} in column {kept.column} is no {kept.type}"
                raise RejectedRowError("metadata-type", shown) from error
            self._notes.bad_cells[name] += 1
            return None


def _names(files: Sequence[Path]) -> dict[Path, str]:
    """The files by as much of their paths as tells them apart; a name may hold bytes that are not UTF-8."""
    above = os.path.commonpath([file.parent for file in files])
    return {file: str(file.relative_to(above)).encode(errors="backslashreplace").decode() for file in files}


def _folder_texts(columns: ColumnsConfig) -> list[str]:
    """What a folder gives, then the keys of a `.json` that the columns name."""
    return ["text", *(column for column in columns.texts if column not in FOLDER_COLUMNS)]
