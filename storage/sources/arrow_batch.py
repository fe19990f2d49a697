"""A batch of Arrow columns as rows: texts that tell rows apart, and plain values for those that are asked for."""

import math
from collections.abc import Iterator, Mapping
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from uuid import UUID

import pyarrow as pa
import pyarrow.compute as pc

from pairloom.storage.digest import digest
from pairloom.storage.sources.raw_row import Values

_JSON_LIKE = (pa.types.is_string, pa.types.is_large_string, pa.types.is_integer, pa.types.is_boolean, pa.types.is_null)
_TEXTS = (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view)
_BYTES = (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_binary_view, pa.types.is_fixed_size_binary)
_UNITS = {"ns": "us", "us": "us", "ms": "ms", "s": "s"}


class ArrowBatch:
    """Some rows of a table, without its images.

    Values become what JSON could hold: times and dates ISO 8601 (zones in UTC), whole decimals integers and other ones
    floats, durations seconds, bytes their text or else hexadecimal digits; NaN and infinities are absent.
    """

    def __init__(self, columns: Mapping[str, pa.Array], rows: int) -> None:
        self.columns = {name: _simple(array) for name, array in columns.items()}
        self.rows = rows
        self._lists: dict[str, list[object]] | None = None
        self._bad: dict[int, str] = {}

    def texts(self) -> Iterator[str]:
        """One text a row: equal where all columns are, and only there."""
        if not self.columns:
            return iter([""] * self.rows)
        cells = [_netstrings(array) for array in self.columns.values()]
        names = pa.scalar(digest(list(self.columns)).encode(), pa.large_binary())
        joined = pc.binary_join_element_wise(names, *cells, pa.scalar(b" ", pa.large_binary()))
        # Bytes of a damaged file need not be UTF-8.
        return (each.decode(errors="surrogateescape") for each in joined.to_pylist())

    def values(self, row: int) -> Values:
        """The values of one row by column. Raises ValueError where a cell can't be read."""
        if self._lists is None:
            self._lists = {name: self._cells(name, array) for name, array in self.columns.items()}
        if row in self._bad:
            raise ValueError(self._bad[row])
        return {name: cells[row] for name, cells in self._lists.items()}

    def _cells(self, name: str, array: pa.Array) -> list[object]:
        try:
            return _plain_cells(array)
        except (ValueError, OverflowError, TypeError, pa.ArrowException):
            return [self._cell(name, array, row) for row in range(len(array))]

    def _cell(self, name: str, array: pa.Array, row: int) -> object:
        try:
            (value,) = _plain_cells(array.slice(row, 1))
        except (ValueError, OverflowError, TypeError, pa.ArrowException) as error:
            self._bad[row] = f"column {name} can't be read: {error}"[:300]
            return None
        return value


def is_text(kind: pa.DataType) -> bool:
    """Whether values of this type are texts."""
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    return any(is_kind(kind) for is_kind in _TEXTS)


def is_bytes(kind: pa.DataType) -> bool:
    """Whether values of this type are bytes."""
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    return any(is_kind(kind) for is_kind in _BYTES)


def _simple(array: pa.Array) -> pa.Array:
    """The same values without the encodings and units that Python has no type for."""
    kind = array.type
    if isinstance(kind, pa.BaseExtensionType):
        return _simple(array.storage)
    if pa.types.is_dictionary(kind):
        return _simple(array.dictionary_decode())
    if pa.types.is_run_end_encoded(kind):
        return _simple(pc.run_end_decode(array))
    if pa.types.is_string_view(kind):
        return array.cast(pa.large_string())
    if pa.types.is_binary_view(kind):
        return array.cast(pa.large_binary())
    if pa.types.is_float16(kind):
        return array.cast(pa.float32())
    if pa.types.is_timestamp(kind):
        return array.cast(pa.timestamp(_UNITS[kind.unit], "UTC" if kind.tz else None), safe=False)
    if pa.types.is_time64(kind) or pa.types.is_duration(kind):
        unit = _UNITS[kind.unit]
        return array.cast(pa.time64(unit) if pa.types.is_time64(kind) else pa.duration(unit), safe=False)
    return array


def _netstrings(array: pa.Array) -> pa.Array:
    """Each value behind its length, as large_binary; `-` for none."""
    cells = _as_bytes(array)
    lengths = pc.binary_length(cells).cast(pa.string()).cast(pa.large_binary())
    joined = pc.binary_join_element_wise(lengths, cells, pa.scalar(b":", pa.large_binary()))
    return joined.fill_null(pa.scalar(b"-", pa.large_binary()))


def _as_bytes(array: pa.Array) -> pa.Array:
    kind = array.type
    if is_text(kind) or is_bytes(kind):
        return array.cast(pa.large_binary())
    if pa.types.is_null(kind):
        return pa.nulls(len(array), pa.large_binary())
    if pa.types.is_temporal(kind):
        return array.cast(pa.int32() if kind.bit_width == 32 else pa.int64()).cast(pa.string()).cast(pa.large_binary())
    if pa.types.is_primitive(kind) or pa.types.is_decimal(kind):
        return array.cast(pa.string()).cast(pa.large_binary())
    return pa.array([_shown(array, row) for row in range(len(array))], pa.large_binary())


def _shown(array: pa.Array, row: int) -> bytes | None:
    try:
        value = array[row].as_py()
    except (ValueError, OverflowError, TypeError, pa.ArrowException) as error:
        return f"unreadable: {error}".encode()
    return None if value is None else repr(value).encode(errors="surrogatepass")


def _plain_cells(array: pa.Array) -> list[object]:
    cells: list[object] = array.to_pylist()
    if any(is_kind(array.type) for is_kind in _JSON_LIKE):
        return cells
    if pa.types.is_fixed_size_binary(array.type):
        return [None if cell is None else cell.hex() for cell in cells]  # type: ignore[attr-defined] # these are bytes
    return [_plain(cell) for cell in cells]


def _plain(value: object) -> object:
    match value:
        case float():
            return value if math.isfinite(value) else None
        case Decimal():
            return int(value) if int(value.as_tuple().exponent) >= 0 else float(value)
        case datetime() | date() | time():
            return value.isoformat()
        case timedelta():
            return value.total_seconds()
        case bytes():
            try:
                return value.decode()
            except UnicodeDecodeError:
                return value.hex()
        case UUID():
            return str(value)
        case dict():
            return {str(key): _plain(each) for key, each in value.items()}
        case list() | tuple():
            return [_plain(each) for each in value]
        case _:
            return value
