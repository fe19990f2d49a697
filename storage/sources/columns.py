"""Which columns of a source mean what, and the typed metadata that is kept of them."""

import json
import math
import re
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any, Literal

from pydantic import BaseModel, Field, SerializerFunctionWrapHandler, field_validator, model_serializer

from pairloom.storage.column_names import RESERVED_COLUMNS, UNSTORABLE_CHARACTERS, UNSTORABLE_NAMES, ColumnType

OnBadCell = Literal["null", "quarantine"]
Metadata = str | int | float | bool | datetime | list[str] | None

_BOOLEANS = dict.fromkeys(("true", "yes", "1", "1.0"), True) | dict.fromkeys(("false", "no", "0", "0.0"), False)
_MISSING = frozenset({"", "-", "na", "n/a", "#n/a", "#n/a n/a", "#na", "<na>", "null", "none"}) | {
    f"{sign}{name}" for sign in ("", "+", "-") for name in ("nan", "inf", "infinity", "1.#ind", "1.#qnan")
}
"""As pandas takes them for missing, in any case; and what is no finite number."""
_WHOLE = re.compile(r"[+-]?[0-9]+")
_NUMBER = re.compile(r"[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]+)?")


class KeptColumn(BaseModel, frozen=True, extra="forbid", use_attribute_docstrings=True):
    """A metadata column kept under another name than the source's."""

    column: str
    """Its name in the source."""
    type: ColumnType
    """Its type in the corpus."""


class ColumnsConfig(BaseModel, frozen=True, extra="forbid", use_attribute_docstrings=True):
    """Which columns of the sources mean what."""

    id: str | None = None
    """Column of the items' own ids; without one, ids are digests of image and first text."""
    image: str = "image"
    """Column of the image's path."""
    texts: list[str] = Field(default=["text"], min_length=1)
    """Columns of texts, best first; each may hold a string or a list of strings."""
    group: str | None = None
    """Column of a key: all images and texts with the same value are positives of one another."""
    split: str | None = None
    """Column that says train, val or test; without one, it is a hash of the group."""
    keep: dict[str, ColumnType | KeptColumn | None] = {}
    """Metadata columns carried through to the vector table: `name: type`, or `name: {column:, type:}` to rename one. On
    a source, `name: null` says that it has no such column."""

    @field_validator("keep")
    @classmethod
    def _names_are_free(
        cls, keep: dict[str, ColumnType | KeptColumn | None]
    ) -> dict[str, ColumnType | KeptColumn | None]:
        others: dict[str, str] = {}
        for name, kept in keep.items():
            kind = kept.type if isinstance(kept, KeptColumn) else kept or "string"
            plain = re.sub(r"\W+", "_", name).strip("_")
            hint = f"keep yours under another one: my_{plain}: {{column: {name or repr(name)}, type: {kind}}}"
            if name.lower() in RESERVED_COLUMNS:
                said = "" if name in RESERVED_COLUMNS else f", which SQL can't tell from {name.lower()}"
                raise ValueError(f"{name} is the name of a column of Pairloom's own{said}; {hint}")
            if not name.strip() or name in UNSTORABLE_NAMES or not UNSTORABLE_CHARACTERS.isdisjoint(name):
                raise ValueError(f"the vector table can't have a column called {name!r}; {hint}")
            if (other := others.setdefault(name.lower(), name)) != name:
                raise ValueError(f"SQL can't tell {name} from {other}; {hint}")
        return keep

    @model_serializer(mode="wrap")
    def _what_is_said(self, dumped: SerializerFunctionWrapHandler) -> dict[str, Any]:
        # What a source does not say is the pipeline's, also after a way through JSON.
        return {name: value for name, value in dumped(self).items() if name in self.model_fields_set}

    @property
    def kept(self) -> dict[str, KeptColumn | None]:
        """Source column and type of each metadata column; None for one that the source does not have."""
        return {
            name: KeptColumn(column=name, type=kept) if isinstance(kept, str) else kept
            for name, kept in self.keep.items()
        }

    @property
    def types(self) -> dict[str, ColumnType]:
        """Type of each metadata column, as `pairloom.storage.schema.item_schema` takes them."""
        return {name: kept.type for name, kept in self.kept.items() if kept is not None}

    def over(self, default: "ColumnsConfig") -> "ColumnsConfig":
        """These columns, and the default's where these say nothing; `keep` name by name."""
        said = {name: getattr(self, name) for name in self.model_fields_set}
        return default.model_copy(update={**said, "keep": {**default.keep, **self.keep}})


def is_missing(text: str) -> bool:
    """Whether a cell that is no text in its column stands for nothing, as pandas and spreadsheets write it."""
    return text.strip().lower() in _MISSING


def json_text(value: object) -> str:
    """A nested value as JSON; what JSON has no form for as text, bytes left out."""
    return json.dumps(value, ensure_ascii=False, default=lambda each: None if isinstance(each, bytes) else str(each))


def typed(value: object, kind: ColumnType) -> Metadata:
    """`value` as `kind`. Raises ValueError, TypeError or OverflowError where it is none.

    None, NaN and infinities are None, and so is what stands for nothing (`is_missing`) but in columns of text. Numbers,
    booleans and lists may be written as text (lists as JSON), as CSV has them; 3.0 is a whole number; a time without a
    zone is UTC; nested values are JSON as text.
    """
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return None
    if isinstance(value, str) and kind not in ("string", "list<string>") and is_missing(value):
        return None
    match kind:
        case "string":
            return _string(value)
        case "int64":
            return _integer(value)
        case "float64":
            number = float(_number(value))
            return number if math.isfinite(number) else None
        case "bool":
            return _boolean(value)
        case "timestamp":
            return _timestamp(value)
        case "list<string>":
            if isinstance(value, str) and value.lstrip().startswith("["):
                value = json.loads(value)
            return [_string(each) for each in (value if isinstance(value, list) else [value])]


def _string(value: object) -> str:
    match value:
        case bool():
            return str(value).lower()
        case str() | int() | float():
            return str(value)
        case date():
            return value.isoformat()
        case dict() | list():
            return json_text(value)
        case _:
            raise TypeError


def _number(value: object) -> int | float:
    match value:
        case bool():
            raise TypeError
        case int() | float():
            return value
        case Decimal():
            return float(value)
        # Python reads more as a number than others write: 1_000, other digits.
        case str() if _NUMBER.fullmatch(written := value.strip()):
            return int(written) if _WHOLE.fullmatch(written) else float(written)
        case str():
            raise ValueError
        case _:
            raise TypeError


def _integer(value: object) -> int:
    written = _number(value)
    number = int(written)
    if number != written:
        raise ValueError
    if not -(2**63) <= number < 2**63:
        raise OverflowError
    return number


def _boolean(value: object) -> bool:
    written = str(value).strip().lower()
    if written not in _BOOLEANS:
        raise ValueError
    return _BOOLEANS[written]


def _timestamp(value: object) -> datetime:
    match value:
        case datetime():
            moment = value
        case date():
            moment = datetime(value.year, value.month, value.day)
        case str():
            moment = datetime.fromisoformat(value.strip())
        case _:
            raise TypeError
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
