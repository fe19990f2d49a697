"""SQL over one release: DuckDB reads the table `items`; `search(…)`, `similarity(…)` and its peers reach the model."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import duckdb
import pyarrow as pa

from pairloom.search.release import Reader
from pairloom.search.sql.attached import NOTHING, Attached, read_table
from pairloom.search.sql.edits import Edit, Edited, line_and_column
from pairloom.search.sql.errors import HINT, PlacedError, StatementError, placed, placed_binding
from pairloom.search.sql.functions import define_functions
from pairloom.search.sql.limits import ANSWER, BATCH_ROWS, Limits
from pairloom.search.sql.rewriting import edits_of
from pairloom.search.sql.session import Session
from pairloom.search.sql.tables import TABLES
from pairloom.search.sql.tokens import tokens, with_names_quoted

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class SqlResult:
    """The rows that a statement gave, with the release and model they came from."""

    release: int
    model_id: str
    rows: pa.Table

    def to_arrow(self) -> pa.Table:
        """Them as they are."""
        return self.rows

    def to_pandas(self) -> "pd.DataFrame":
        """Them as a frame."""
        return self.rows.to_pandas()

    def to_list(self) -> list[dict[str, Any]]:
        """A mapping a row."""
        found: list[dict[str, Any]] = self.rows.to_pylist()
        return found


def run_sql(reader: Reader, sql: str, attached: Attached = NOTHING) -> pa.Table:
    """The rows of one SELECT statement over the reader's release, or of EXPLAIN and one.

    docs/search.md says what tables and functions there are. The statement can neither write nor reach the network, a
    setting or a file but those that the caller attached; rows, bytes and time are bounded. Raises ValueError in one
    line, with the place in the statement where DuckDB knows it.
    """
    with answered(reader, sql, attached, ANSWER) as answer:
        return pa.Table.from_batches(answer.batches, schema=answer.schema)


@dataclass(frozen=True)
class Answer:
    """Rows as they come."""

    schema: pa.Schema
    """No two columns of one name."""
    batches: Iterator[pa.RecordBatch]


@contextmanager
def answered(reader: Reader, sql: str, attached: Attached, limits: Limits) -> Iterator[Answer]:
    """What a statement gives, within limits; to be read inside. Raises ValueError as `run_sql` does."""
    with Session.opened(reader.current, attached, limits.seconds) as session:
        statement = _Statement(session, sql)
        with statement.errors_in_one_line():
            found = statement.run()
            schema = pa.schema(
                field.with_name(name) for field, name in zip(found.schema, _distinct(found.schema.names), strict=True)
            )
        yield Answer(schema, statement.read(found, limits))


class _Statement:
    """What people wrote, as it becomes what DuckDB is asked."""

    def __init__(self, session: Session, sql: str) -> None:
        self._session = session
        self._connection = session.connection
        self._written = sql
        self._quoted = self._edited = Edited(sql, [])

    def run(self) -> Any:
        """A reader of what it gives."""
        for name, path in self._session.attached.tables.items():
            if name.lower() in TABLES:
                raise ValueError(f"there is a table {name} of the release already: attach yours by another name")
            self._session.register(name, read_table(path))
        define_functions(self._session.database)
        self._quoted = with_names_quoted(self._written)
        self._edited = Edited(self._quoted.text, [])
        start, select = self._select()
        try:
            edits = edits_of(self._session, select)
        except PlacedError as error:
            raise error.moved(start) from error
        self._edited = Edited(
            self._quoted.text, [Edit(each.start + start, each.end + start, each.new) for each in edits]
        )
        try:
            relation = self._connection.sql(self._edited.text)
        except (duckdb.BinderException, duckdb.CatalogException) as error:
            raise self._back(placed_binding(self._connection, self._edited.text, error)) from error
        return relation.to_arrow_reader(BATCH_ROWS)

    def read(self, found: Any, limits: Limits) -> Iterator[pa.RecordBatch]:
        """Its batches, no two columns of one name."""
        with self.errors_in_one_line():
            for batch in limits.bounded(found, self._session.deadline):
                yield batch.rename_columns(_distinct(batch.schema.names))
            self._session.ended = True

    @contextmanager
    def errors_in_one_line(self) -> Iterator[None]:
        """What is wrong with it as a ValueError; what takes too long is interrupted."""
        try:
            with self._session.deadline.interrupts(self._connection):
                yield
        except RecursionError as error:
            raise ValueError(f"the statement nests too deeply ({HINT})") from error
        except (MemoryError, pa.ArrowMemoryError) as error:
            raise ValueError("the statement needs more memory than there is: add a LIMIT") from error
        except PlacedError as error:
            raise self._told(error) from error
        # What Arrow can't hold, it calls an OSError.
        except (duckdb.Error, OSError) as error:
            raise self._told(self._back(placed(error))) from error

    def _select(self) -> tuple[int, str]:
        """Where its SELECT begins, and that; ValueError where there is none or something besides."""
        text = self._quoted.text
        statements = self._connection.extract_statements(text)
        words, start = tokens(text), 0
        if len(statements) == 1 and statements[0].type == duckdb.StatementType.EXPLAIN:
            start = next((word.start for word in words if word.text.lower() not in ("explain", "analyze")), 0)
            statements = self._connection.extract_statements(text.encode()[start:].decode())
        if len(statements) != 1 or statements[0].type != duckdb.StatementType.SELECT:
            kinds = ", ".join(each.type.name for each in statements) or "nothing"
            raise ValueError(f"one SELECT statement is wanted, not {kinds} ({HINT})")
        select: str = statements[0].query
        return max(text.encode().find(select.encode(), start), 0), select

    def _back(self, error: PlacedError) -> PlacedError:
        """An error of the edited statement as one of the statement before."""
        return error if error.place is None else error.moved(self._edited.original(error.place) - error.place)

    def _told(self, error: PlacedError) -> ValueError:
        """An error as people read it, of the statement as they wrote it."""
        # A place beyond the end is one in a macro of ours.
        known = error.place is not None and error.place < len(self._quoted.text.encode())
        hint = f" ({error.hint})" if error.hint else ""
        if not known:
            return StatementError(f"{error.message}{hint}")
        line, column = line_and_column(self._written, self._quoted.original(error.place or 0))
        return StatementError(f"{error.message} at line {line}, column {column}{hint}", line, column)


def _distinct(names: list[str]) -> list[str]:
    """A joined table may name columns twice, which a row object can't hold: `item_id`, `item_id_1`."""
    taken: list[str] = []
    for name in names:
        number, each = 0, name
        while each in taken:
            number += 1
            each = f"{name}_{number}"
        taken.append(each)
    return taken
