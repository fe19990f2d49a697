"""Sources: read as typed rows, one by one; what cannot be one is rejected with a reason."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from pairloom.storage.digest import digest
from pairloom.storage.schema import ColumnType
from pairloom.storage.sources.columns import ColumnsConfig, OnBadCell
from pairloom.storage.sources.config import DelimitedSource, SourceConfig
from pairloom.storage.sources.kinds import columns_of, file_rows, raw_rows, source_version
from pairloom.storage.sources.presence import check_columns, check_presence
from pairloom.storage.sources.raw_row import RawRow, Values
from pairloom.storage.sources.row_reader import RowReader
from pairloom.storage.sources.source_row import RejectedRow, SourceRow, UnreadableSourceError
from pairloom.storage.sources.text_rules import TextRules

if TYPE_CHECKING:
    from pairloom.storage.sources.row_filter import RowFilter

ROWS_PER_BATCH = 20_000
_ROWS_ASKED_AT_ONCE = 1_000
_DEFAULT_RULES = TextRules()


def read_source(
    config: SourceConfig,
    columns: ColumnsConfig,
    rules: TextRules = _DEFAULT_RULES,
    on_bad_cell: OnBadCell = "null",
    bad_cells: Counter[str] | None = None,
) -> Iterator[SourceRow | RejectedRow]:
    """Every row of a source, in its order, none left out; see `Source`."""
    source = Source(config, columns, rules, on_bad_cell, bad_cells)
    batches = source.batches()
    return (source.read(batch, place) for batch in batches for place in range(len(batch.rows)))


@dataclass(frozen=True)
class Batch:
    """Consecutive rows of one file."""

    file: Path
    rows: Sequence[RawRow]
    aside: Mapping[int, str | None]
    """Places of rows that are none by the source's `where`, with why that can't be told or None where it isn't true."""


class Source:
    """One source and how its rows are understood.

    `rules` say which texts are none; `bad_cells` counts cells that are null because they are not of their kept column's
    type, by its name. Raises UnreadableSourceError for a source that is not there or is of another kind, and for
    columns that none of its rows has.
    """

    def __init__(
        self,
        config: SourceConfig,
        columns: ColumnsConfig,
        rules: TextRules = _DEFAULT_RULES,
        on_bad_cell: OnBadCell = "null",
        bad_cells: Counter[str] | None = None,
    ) -> None:
        self.config = config
        with self._readable():
            check_presence(config)
            self._columns = columns_of(config, columns)
            if isinstance(config, DelimitedSource):
                for file in config.files:
                    next(file_rows(config, file, self._columns), None)  # tells what is wrong with any header
            check_columns(config, self._columns, raw_rows(config, self._columns))
        self._reader = RowReader(
            config, self._columns, rules, on_bad_cell, Counter() if bad_cells is None else bad_cells
        )
        # Files are told apart by their names, rows that `where` leaves out by that.
        named_elsewhere = {"path", "name", "where", "mode", "max_removed", "version"}
        self.identity = digest(
            [
                config.label,
                config.model_dump(mode="json", exclude=named_elsewhere),
                self._columns.model_dump(mode="json"),
                rules.model_dump(mode="json"),
                on_bad_cell,
            ]
        )
        """Of all that decides how its rows are read, but `where`."""

    @property
    def version(self) -> str | None:
        """Of all its rows and what they name, as cheaply as its kind can tell; None where they must be listed."""
        with self._readable():
            version = source_version(self.config)
        return None if version is None else digest([version, self.config.where])

    def batches(self) -> Iterator[Batch]:
        """Its rows in their order.

        Raises UnreadableSourceError, at once for a `where` that cannot be evaluated; later, where it can't be read on.
        """
        with self._readable():
            keep = self._filter
        return self._batches(keep)

    def read(self, batch: Batch, place: int) -> SourceRow | RejectedRow:
        """One row of a batch."""
        undecided = batch.aside.get(place)
        return self._reader.read(
            batch.rows[place], kept=place not in batch.aside or undecided is not None, undecided=undecided
        )

    @cached_property
    def _filter(self) -> "RowFilter | None":
        config, columns = self.config, self._columns
        if config.where is None:
            return None
        # DuckDB, for sources that are filtered.
        from pairloom.storage.sources.row_filter import RowFilter

        as_text = isinstance(config, DelimitedSource)
        declared: dict[str, ColumnType] = dict.fromkeys([columns.image, *columns.texts], "string") if as_text else {}
        declared |= {kept.column: kept.type for kept in columns.kept.values() if kept}
        return RowFilter(config.where, _values(raw_rows(config, columns)), declared, as_text=as_text)

    def _batches(self, keep: "RowFilter | None") -> Iterator[Batch]:
        with self._readable():
            for file in self.config.files:
                for rows in _by_the_thousand(file_rows(self.config, file, self._columns)):
                    yield Batch(file, rows, {} if keep is None else _aside(keep, rows))

    @contextmanager
    def _readable(self) -> Iterator[None]:
        try:
            yield
        except (ValueError, OSError) as error:
            raise UnreadableSourceError(f"source {self.config.label}: {error}") from error


def _by_the_thousand(rows: Iterator[RawRow]) -> Iterator[list[RawRow]]:
    """Lists of rows; what stands before the place where a source can't be read on is not lost."""
    batch: list[RawRow] = []
    try:
        for raw in rows:
            batch.append(raw)
            if len(batch) == ROWS_PER_BATCH:
                yield batch
                batch = []
    except (ValueError, OSError):
        if batch:
            yield batch
        raise
    if batch:
        yield batch


def _aside(keep: "RowFilter", rows: Sequence[RawRow]) -> dict[int, str | None]:
    found: dict[int, str | None] = {}
    for start in range(0, len(rows), _ROWS_ASKED_AT_ONCE):
        asked = list(_values(rows[start : start + _ROWS_ASKED_AT_ONCE]))
        judged = keep.judge(asked)
        found |= {start + place: judged.undecided.get(place) for place in range(len(asked)) if place not in judged.kept}
    return found


def _values(rows: Iterable[RawRow]) -> Iterator[Values]:
    """What rows say; nothing of those that can't be understood."""
    for raw in rows:
        try:
            yield raw.values()
        except ValueError:
            yield {}
