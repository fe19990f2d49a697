"""The `where` of a source: a SQL expression over its columns, evaluated by DuckDB with no way to any file."""

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from typing import Literal

import duckdb
import pyarrow as pa

from pairloom.storage.schema import ARROW_TYPES, ColumnType
from pairloom.storage.sealed import MAX_SECONDS, Deadline, sealed_connection
from pairloom.storage.sources.columns import is_missing, typed

_ROW = "pairloom row number"
_NUMBER = re.compile(r"[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]+)?")
_WHOLE = re.compile(r"[+-]?[0-9]{1,18}(\.0*)?")

_OTHERS: tuple[ColumnType, ...] = ("bool", "timestamp", "list<string>")
_Kind = ColumnType | Literal["missing"] | None


@dataclass
class Judged:
    """Some rows by their places."""

    kept: set[int] = field(default_factory=set)
    """Those for which the expression is true."""
    undecided: dict[int, str] = field(default_factory=dict)
    """Those for which it has no answer because a cell is not of its column's type, and why."""


class RowFilter:
    """Says which rows of a source a SQL expression keeps.

    A column has the type that `declared` gives it; otherwise that of more than half of its cells, those without a value
    left aside: booleans, whole numbers, numbers, times, lists of strings, and else text, nested values as JSON (`rows`
    is read once, so that every batch is judged alike; with `as_text`, as for CSV, numbers and booleans are told by how
    they are written). A cell of another type has no value for the expression.

    Raises ValueError, in one line, for an expression that DuckDB refuses and for columns whose names it cannot tell
    apart.
    """

    def __init__(
        self,
        expression: str,
        rows: Iterable[Mapping[str, object]],
        declared: Mapping[str, ColumnType],
        *,
        as_text: bool,
    ) -> None:
        self._expression = expression
        self._types = {name: declared.get(name, kind) for name, kind in _column_types(rows, as_text=as_text).items()}
        if len({name.lower() for name in self._types}) < len(self._types):
            raise ValueError(
                "where: the source has columns that differ in upper and lower case only, which SQL cannot tell "
                f"apart: {', '.join(self._types)}"
            )
        self._named = {name for name in self._types if name.lower() in expression.lower()}
        self._connection = sealed_connection(threads="1")
        if not self._types:  # no row of the source can be read, so there is nothing to ask
            return
        try:
            self._true([{}])
        except (duckdb.Error, MemoryError) as error:
            first_line = str(error).strip().partition("\n")[0]
            raise ValueError(
                f"where: {self._expression!r} cannot be asked: {first_line} "
                f"(its columns are {', '.join(self._types) or 'none'})"
            ) from error

    def judge(self, rows: Sequence[Mapping[str, object]]) -> Judged:
        """What becomes of `rows`, each by itself."""
        if not self._types:
            return Judged()
        read, odd = [], {}
        for place, row in enumerate(rows):
            cells, problem = self._typed(row)
            read.append(cells)
            if problem:
                odd[place] = problem
        try:
            judged = Judged(self._true(read))
        except duckdb.Error as error:
            first_line = str(error).strip().partition("\n")[0]
            # One row has no answer, such as a cast of a text: now all rows are asked in a way that tells which.
            answers = f"TRY(coalesce(CAST(({self._expression}\n) AS BOOLEAN), false))"
            unanswered = self._places(read, duckdb.SQLExpression(answers).isnull())
            message = f"where: {self._expression!r} has no answer for this row: {first_line}"
            judged = Judged(self._places(read, duckdb.SQLExpression(answers)), dict.fromkeys(unanswered, message))
        if odd:
            places = list(odd)
            null = duckdb.SQLExpression(f"(TRY(({self._expression}\n))) IS NULL")
            for place in self._places([read[place] for place in places], null):
                judged.undecided.setdefault(places[place], odd[places[place]])
        return judged

    def _true(self, rows: Sequence[Mapping[str, object]]) -> set[int]:
        return self._places(rows, duckdb.SQLExpression(self._expression))

    def _places(self, rows: Sequence[Mapping[str, object]], expression: duckdb.Expression) -> set[int]:
        columns: dict[str, pa.Array] = {
            name: pa.array([row.get(name) for row in rows], pa.null() if kind is None else ARROW_TYPES[kind])
            for name, kind in self._types.items()
        }
        columns[_ROW] = pa.array(range(len(rows)), pa.int64())
        relation = self._connection.from_arrow(pa.table(columns)).filter(expression)
        with Deadline(MAX_SECONDS).interrupts(self._connection):
            return {row for (row,) in relation.select(duckdb.ColumnExpression(_ROW)).fetchall()}

    def _typed(self, row: Mapping[str, object]) -> tuple[dict[str, object], str | None]:
        """A row's cells in the columns' types, and the first that is of none although the expression names it."""
        cells: dict[str, object] = {}
        problem = None
        for name, value in row.items():
            kind = self._types.get(name)
            try:
                # A text column holds everything, nested values too.
                cells[name] = None if value is None or kind is None else typed(value, kind)
            except (ValueError, TypeError, OverflowError):
                if name in self._named:
                    problem = problem or f"where: {name} is {value!r:.80}, no {kind}"
        return cells, problem


def _column_types(rows: Iterable[Mapping[str, object]], *, as_text: bool) -> dict[str, ColumnType | None]:
    """The type of most cells of each column; None for one without any value."""
    kinds: dict[str, Counter[_Kind]] = {}
    for row in rows:
        for name, value in row.items():
            kinds.setdefault(name, Counter())[_kind(value, as_text=as_text)] += 1
    return {name: _commonest(found) for name, found in kinds.items()}


def _kind(value: object, *, as_text: bool) -> _Kind:
    match value:
        case None:
            return None
        case str() if is_missing(value):
            return "missing"
        case str() if as_text:
            return _kind_of_text(value.strip())
        case bool():
            return "bool"
        case int():
            return "int64" if -(2**63) <= value < 2**63 else "float64"
        case float():
            return "float64"
        case date():  # and datetime
            return "timestamp"
        case list() if all(isinstance(each, str) for each in value):
            return "list<string>"
        case _:
            return "string"


def _kind_of_text(text: str) -> ColumnType:
    if text.lower() in ("true", "false"):
        return "bool"
    if _WHOLE.fullmatch(text):
        return "int64"
    return "float64" if _NUMBER.fullmatch(text) else "string"


def _commonest(found: Counter[_Kind]) -> ColumnType | None:
    cells = found.total() - found[None] - found["missing"]
    if not cells:
        return "string" if found["missing"] else None
    if 2 * (found["int64"] + found["float64"]) > cells:
        return "float64" if found["float64"] else "int64"
    for kind in _OTHERS:
        if 2 * found[kind] > cells:
            return kind
    return "string"
