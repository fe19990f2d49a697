"""What each column of a raw row means, in the types that are stored."""

from typing import Literal

from pairloom.storage.digest import digest
from pairloom.storage.sources.columns import ColumnsConfig, KeptColumn, Metadata, typed
from pairloom.storage.sources.config import FolderSource, SourceConfig
from pairloom.storage.sources.image_folder import ImageFolder
from pairloom.storage.sources.raw_row import RawRow, Values
from pairloom.storage.sources.source_row import RejectedRow, RejectedRowError, SourceRow

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

    def __init__(self, config: SourceConfig, columns: ColumnsConfig) -> None:
        self._source = config.label
        self._where = config.where
        self._columns = columns
        self._kept = columns.kept
        folder = isinstance(config, FolderSource)
        self._image_column = "image" if folder else columns.image
        self._text_columns = ["text"] if folder else columns.texts
        self._images = ImageFolder(config.image_folder)

    def read(self, raw: RawRow, *, filtered: bool) -> SourceRow | RejectedRow:
        item_id = image_path = None
        outcome: Literal["quarantined", "filtered"] = "quarantined"
        try:
            try:
                values = raw.values()
            except ValueError as error:
                raise RejectedRowError("malformed-row", str(error)) from error
            item_id = self._name(values, self._columns.id)
            image_path = self._name(values, self._image_column)
            if filtered:
                outcome = "filtered"
                raise RejectedRowError("where", f"where: {self._where} is not true")
            return self._understood(raw, values, item_id, image_path)
        except RejectedRowError as rejection:
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

    def _understood(self, raw: RawRow, values: Values, item_id: str | None, image_path: str | None) -> SourceRow:
        if self._columns.id is not None and item_id is None:
            raise RejectedRowError("id-missing", f"column {self._columns.id} is empty")
        if image_path is None:
            raise RejectedRowError("image-missing", raw.absent or f"column {self._image_column} is empty")
        texts = self._texts(values)
        if not texts:
            raise RejectedRowError("text-empty", f"no text in {', '.join(self._text_columns)}")
        group = self._name(values, self._columns.group)
        split = self._name(values, self._columns.split)
        if split is not None:
            if split.lower() not in _SPLITS:
                raise RejectedRowError("split-unknown", f"split {split!r} is none of train, val, test")
            split = _SPLITS[split.lower()]
        metadata = {name: _metadata(name, kept, values) for name, kept in self._kept.items()}
        return SourceRow(
            source=self._source,
            number=raw.number,
            item_id=item_id,
            image=raw.image or self._images.find(image_path),
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


def _metadata(name: str, kept: KeptColumn, values: Values) -> Metadata:
    value = values.get(kept.column)
    try:
        return typed(value, kept.type)
    except (ValueError, TypeError, OverflowError) as error:
        shown = f"{name}: {value!r:.80} in column {kept.column} is no {kept.type}"
        raise RejectedRowError("metadata-type", shown) from error
