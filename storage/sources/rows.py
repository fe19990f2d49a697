"""Sources: read as typed rows, one by one; what cannot be one is rejected with a reason."""

import itertools
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from typing import TYPE_CHECKING

from pairloom.storage.digest import digest
from pairloom.storage.sources.columns import ColumnsConfig
from pairloom.storage.sources.config import CsvSource, FolderSource, JsonlSource, SourceConfig
from pairloom.storage.sources.delimited import csv_rows
from pairloom.storage.sources.folder import folder_rows
from pairloom.storage.sources.jsonl import jsonl_rows
from pairloom.storage.sources.presence import check_columns, check_presence
from pairloom.storage.sources.raw_row import RawRow, Values
from pairloom.storage.sources.row_reader import RowReader
from pairloom.storage.sources.source_row import RejectedRow, SourceRow

if TYPE_CHECKING:
    from pairloom.storage.sources.row_filter import RowFilter

ROWS_PER_BATCH = 20_000
_ROWS_ASKED_AT_ONCE = 1_000


def read_source(config: SourceConfig, columns: ColumnsConfig) -> Iterator[SourceRow | RejectedRow]:
    """Every row of a source, in its order, none left out.

    Raises ValueError, before the first row, for a source that is not there, for columns that none of its rows has, and
    for a `where` that cannot be evaluated.
    """
    source = Source(config, columns)
    batches = source.batches()
    return (
        source.reader.read(raw, filtered=place in filtered)
        for raws, filtered in batches
        for place, raw in enumerate(raws)
    )


class Source:
    """One source and how its rows are understood.

    Raises ValueError for a source that is not there and for columns that none of its rows has.
    """

    def __init__(self, config: SourceConfig, columns: ColumnsConfig) -> None:
        check_presence(config)
        check_columns(config, columns, raw_rows(config))
        self.config = config
        self.reader = RowReader(config, columns)
        self.identity = digest(
            [
                config.label,
                config.model_dump(mode="json", exclude={"name", "where", "mode", "max_removed"}),
                columns.model_dump(mode="json"),
            ]
        )
        """Of all that decides how its rows are read, but `where`."""

    @property
    def version(self) -> str | None:
        """Of all its rows and what they name, as cheaply as its kind can tell; None where they must be listed."""
        version = source_version(self.config)
        return None if version is None else digest([version, self.config.where])

    def batches(self) -> Iterator[tuple[Sequence[RawRow], frozenset[int]]]:
        """Its rows in their order, with the places of those that `where` filters.

        Raises ValueError at once for a `where` that cannot be evaluated.
        """
        keep = self._filter
        rows = raw_rows(self.config)
        return (
            (batch, frozenset() if keep is None else _filtered(keep, batch))
            for batch in iter(lambda: list(itertools.islice(rows, ROWS_PER_BATCH)), [])
        )

    @cached_property
    def _filter(self) -> "RowFilter | None":
        if self.config.where is None:
            return None
        # DuckDB, for sources that are filtered.
        from pairloom.storage.sources.row_filter import RowFilter

        typed = not isinstance(self.config, CsvSource)
        return RowFilter(self.config.where, self.config.label, _values(raw_rows(self.config)), typed=typed)


def raw_rows(config: SourceConfig) -> Iterator[RawRow]:
    """The rows of a source as its kind lists them."""
    match config:
        case JsonlSource():
            return jsonl_rows(config.path)
        case CsvSource():
            return csv_rows(config.path, config.delimiter)
        case FolderSource():
            return folder_rows(config.path)


def source_version(config: SourceConfig) -> str | None:
    """What changes with anything in a source's files, for kinds whose images are inside; None for others."""
    match config:
        case JsonlSource() | CsvSource() | FolderSource():
            # Their images are files of their own.
            return None


def _filtered(keep: "RowFilter", batch: Sequence[RawRow]) -> frozenset[int]:
    found: set[int] = set()
    for start in range(0, len(batch), _ROWS_ASKED_AT_ONCE):
        asked = batch[start : start + _ROWS_ASKED_AT_ONCE]
        found |= {start + place for place in set(range(len(asked))) - keep.kept(list(_values(asked)))}
    return frozenset(found)


def _values(rows: Iterable[RawRow]) -> Iterator[Values]:
    """What rows say; nothing of those that can't be understood."""
    for raw in rows:
        try:
            yield raw.values()
        except ValueError:
            yield {}
