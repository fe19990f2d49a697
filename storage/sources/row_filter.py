"""The `where` of a source: a SQL expression over its columns, evaluated by DuckDB with no way to any file."""

import json
import re
from collections.abc import Iterable, Mapping, Sequence

import duckdb
import pyarrow as pa

from pairloom.storage.sealed import MAX_SECONDS, Deadline, sealed_connection

_ROW = "pairloom row number"
# A leading zero makes a code, not a number.
_INTEGER = re.compile(r"-?(0|[1-9][0-9]{0,17})")
_NUMBER = re.compile(r"[+-]?((0|[1-9][0-9]*)(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]+)?")


class RowFilter:
    """Says which rows of a source a SQL expression keeps.

    Column types come from all rows (`rows` is read once), so that every batch is judged alike: booleans, integers,
    floating-point numbers and lists of strings keep their types, in CSV files too; anything else is text, nested
    values as JSON. Raises ValueError, in one line, for an expression that DuckDB refuses and for columns whose names it
    cannot tell apart.
    """

    def __init__(self, expression: str, source: str, rows: Iterable[Mapping[str, object]], *, typed: bool) -> None:
        self._expression = expression
        self._source = source
        self._typed = typed
        self._types = _column_types(rows, typed=typed)
        if len({name.lower() for name in self._types}) < len(self._types):
            raise ValueError(
                f"where: source {source} has columns that differ in upper and lower case only, which SQL cannot tell "
                f"apart: {', '.join(self._types)}"
            )
        self._connection = sealed_connection(threads="1")
        self.kept([])

    def kept(self, rows: Sequence[Mapping[str, object]]) -> set[int]:
        """Places in `rows` of those for which the expression is true."""
        if not self._types:  # no row of the source could be read, so there is nothing to ask
            return set()
        try:
            columns: dict[str, pa.Array] = {
                name: pa.array([_converted(row.get(name), kind, typed=self._typed) for row in rows], kind)
                for name, kind in self._types.items()
            }
            columns[_ROW] = pa.array(range(len(rows)), pa.int64())
            relation = self._connection.from_arrow(pa.table(columns)).filter(duckdb.SQLExpression(self._expression))
            with Deadline(MAX_SECONDS).interrupts(self._connection):
                return {row for (row,) in relation.select(duckdb.ColumnExpression(_ROW)).fetchall()}
        # Values fit their column's type unless the file has changed since it was read for the types.
        except (duckdb.Error, ValueError, TypeError, OverflowError, MemoryError) as error:
            first_line = str(error).strip().partition("\n")[0]
            raise ValueError(
                f"where: {self._expression!r} cannot be asked of source {self._source}: {first_line} "
                f"(its columns are {', '.join(self._types) or 'none'})"
            ) from error


def _column_types(rows: Iterable[Mapping[str, object]], *, typed: bool) -> dict[str, pa.DataType]:
    kinds: dict[str, set[str]] = {}
    for row in rows:
        for name, value in row.items():
            kinds.setdefault(name, set()).add(_kind(value) if typed else _kind_of_text(value))
    return {name: _type(found - {"absent"}) for name, found in kinds.items()}


def _kind(value: object) -> str:
    match value:
        case None:
            return "absent"
        case bool():
            return "bool"
        case int():
            return "int" if -(2**63) <= value < 2**63 else "float"
        case float():
            return "float"
        case list() if all(isinstance(each, str) for each in value):
            return "list"
        case _:
            return "text"


def _kind_of_text(value: object) -> str:
    if value is None:
        return "absent"
    text = str(value).strip()
    if text.lower() in ("true", "false"):
        return "bool"
    return "int" if _INTEGER.fullmatch(text) else "float" if _NUMBER.fullmatch(text) else "text"


def _type(kinds: set[str]) -> pa.DataType:
    match sorted(kinds):
        case ["bool"]:
            return pa.bool_()
        case ["int"]:
            return pa.int64()
        case ["float"] | ["float", "int"]:
            return pa.float64()
        case ["list"]:
            return pa.list_(pa.string())
        case _:
            return pa.string()


def _converted(value: object, kind: pa.DataType, *, typed: bool) -> object:
    if value is None:
        return None
    if kind == pa.string():
        return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    if kind == pa.float64():
        return float(str(value))
    if typed:
        return value
    text = str(value).strip()
    return text.lower() == "true" if kind == pa.bool_() else int(text)
