"""What each column of a raw row means, in the types that are stored."""

import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from pairloom.storage.digest import digest
from pairloom.storage.escaping import utf8
from pairloom.storage.reasons import Reason
from pairloom.storage.sources.columns import ColumnsConfig, KeptColumn, Metadata, OnBadCell, typed
from pairloom.storage.sources.config import CaptionFile, FolderSource, SourceConfig
from pairloom.storage.sources.folder import FOLDER_COLUMNS
from pairloom.storage.sources.image_folder import ImageFolder
from pairloom.storage.sources.raw_row import RawRow, Values
from pairloom.storage.sources.source_row import RejectedRow, RejectedRowError, SourceRow
from pairloom.storage.sources.text_rules import TextRules

_SHOWN = 100
"""Most characters of a refused text that are quoted."""

_SPLITS = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "dev": "val",
    "test": "test",
}


class RowReader:
    """Understands the rows of one source."""

    def __init__(
        self,
        config: SourceConfig,
        columns: ColumnsConfig,
        rules: TextRules,
        on_bad_cell: OnBadCell,
        bad_cells: Counter[str],
    ) -> None:
        self._bad_cells = bad_cells
        self._config = config
        self._source = config.label
        files = config.files
        self._file = files[0]
        self._names = _names(files) if len(files) > 1 else {}
        self._where = config.where
        self._columns = columns
        self._quarantines = (config.on_bad_cell or on_bad_cell) == "quarantine"
        self._kept = columns.kept
        self._rules = rules
        folder = isinstance(config, FolderSource)
        self._image_column = "image" if folder else columns.image
        self._text_columns = _folder_texts(columns) if folder else columns.texts
        self._sidecars = isinstance(config, FolderSource) and config.text_from == "sidecar"
        self._fetch = config.fetch if isinstance(config, CaptionFile) else None
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
                raise RejectedRowError(Reason.MALFORMED_ROW, str(error)) from error
            item_id = self._name(values, self._columns.id)
            image_path = self._name(values, self._image_column)
            if undecided is not None:
                raise RejectedRowError(Reason.WHERE_UNDECIDED, undecided)
            if not kept:
                raise RejectedRowError(Reason.WHERE, f"where: {self._where} is not true")
            return self._understood(raw, values, item_id, image_path)
        except RejectedRowError as rejection:
            return RejectedRow(
                source=self._source,
                number=raw.number,
                fingerprint=digest([self._source, raw.text, rejection.reason]),
                item_id=item_id,
                image_path=image_path,
                reason=rejection.reason,
                message=utf8(rejection.message),
                file=self._named(raw),
            )

    def _understood(self, raw: RawRow, values: Values, item_id: str | None, image_path: str | None) -> SourceRow:
        if self._columns.id is not None and item_id is None:
            raise RejectedRowError(Reason.ID_MISSING, f"column {self._columns.id} is empty")
        if image_path is None:
            raise RejectedRowError(Reason.IMAGE_MISSING, raw.absent or f"column {self._image_column} is empty")
        texts = self._texts(values)
        if not texts:
            where = ", ".join(self._text_columns)
            if self._sidecars:
                where = f"{Path(image_path).with_suffix('.txt')}, expected beside the image"
            raise RejectedRowError(Reason.TEXT_EMPTY, f"no text in {where}")
        group = self._name(values, self._columns.group)
        split = self._name(values, self._columns.split)
        if split is not None:
            if split.lower() not in _SPLITS:
                raise RejectedRowError(Reason.SPLIT_UNKNOWN, f"split {split!r} is none of train, val, test")
            split = _SPLITS[split.lower()]
        bad_cells = self._bad_cells.total()
        metadata = {name: self._metadata(name, kept, values) for name, kept in self._kept.items()}
        return SourceRow(
            source=self._source,
            number=raw.number,
            item_id=item_id,
            image=raw.image or self._folder(raw).find(image_path),
            image_path=image_path,
            texts=texts,
            group=group,
            split=split,
            metadata=metadata,
            file=self._named(raw),
            nulled=self._bad_cells.total() > bad_cells,
        )

    def _folder(self, raw: RawRow) -> ImageFolder:
        file = raw.file or self._file
        if file not in self._images:
            self._images[file] = ImageFolder(self._config.image_folder(file), self._fetch)
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
                raise RejectedRowError(
                    Reason.MALFORMED_ROW, f"column {column} holds a {type(other).__name__}, not a string"
                )
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
                        Reason.MALFORMED_ROW, f"column {column} holds a {type(each).__name__}, not a text"
                    )
                text = "" if each is None else str(each).strip()
                if text:
                    found[text] = None
        refused = {text: reason for text in found if (reason := self._rules.refusal(text))}
        if found and len(refused) == len(found):
            text, reason = next(iter(refused.items()))
            shown = text if len(text) <= _SHOWN else f"{text[:_SHOWN]} …"
            others = f", and {len(refused) - 1} more" if len(refused) > 1 else ""
            raise RejectedRowError(reason, f"{shown!r} is refused as {reason}{others}")
        return tuple(text for text in found if text not in refused)

    def _metadata(self, name: str, kept: KeptColumn | None, values: Values) -> Metadata:
        if kept is None:
            return None
        value = values.get(kept.column)
        try:
            return typed(value, kept.type)
        except (ValueError, TypeError, OverflowError) as error:
            if self._quarantines:
                shown = f"{name}: {value!r:.80} in column {kept.column} is no {kept.type}"
                raise RejectedRowError(Reason.METADATA_TYPE, shown) from error
            self._bad_cells[name] += 1
            return None


def _names(files: Sequence[Path]) -> dict[Path, str]:
    """The files by as much of their paths as tells them apart; a name may hold bytes that are not UTF-8."""
    above = os.path.commonpath([file.parent for file in files])
    return {file: utf8(str(file.relative_to(above))) for file in files}


def _folder_texts(columns: ColumnsConfig) -> list[str]:
    """What a folder gives, then the keys of a `.json` that the columns name."""
    return ["text", *(column for column in columns.texts if column not in FOLDER_COLUMNS)]
