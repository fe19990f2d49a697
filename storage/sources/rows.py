"""Sources: read as typed rows, one by one; what cannot be one is rejected with a reason."""

import itertools
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from pairloom.storage.sources.columns import ColumnsConfig
from pairloom.storage.sources.config import (
    CsvSource,
    FolderSource,
    JsonlSource,
    LanceSource,
    ParquetSource,
    SourceConfig,
    WebDatasetSource,
)
from pairloom.storage.sources.delimited import csv_rows
from pairloom.storage.sources.folder import folder_rows
from pairloom.storage.sources.jsonl import jsonl_rows
from pairloom.storage.sources.lance import lance_rows, lance_schema
from pairloom.storage.sources.layouts import laid_out
from pairloom.storage.sources.parquet import parquet_rows, parquet_schema
from pairloom.storage.sources.presence import check_columns, check_presence
from pairloom.storage.sources.raw_row import RawRow, Values
from pairloom.storage.sources.row_reader import RowReader
from pairloom.storage.sources.source_row import RejectedRow, SourceRow
from pairloom.storage.sources.webdataset import webdataset_rows

if TYPE_CHECKING:
    from pairloom.storage.sources.row_filter import RowFilter

_ROWS_PER_BATCH = 1_000


def read_source(config: SourceConfig, columns: ColumnsConfig) -> Iterator[SourceRow | RejectedRow]:
    """Every row of a source, in its order, none left out.

    Raises ValueError, before the first row, for a source that is not there, for columns that none of its rows has, and
    for a `where` that cannot be evaluated.
    """
    check_presence(config)
    columns = _laid_out(config, columns)
    check_columns(config, columns, raw_rows(config, columns))
    keep = None
    if config.where is not None:
        # DuckDB, for sources that are filtered.
        from pairloom.storage.sources.row_filter import RowFilter

        typed = not isinstance(config, CsvSource)
        keep = RowFilter(config.where, config.label, _values(raw_rows(config, columns)), typed=typed)
    return _rows(config, columns, keep)


def raw_rows(config: SourceConfig, columns: ColumnsConfig) -> Iterator[RawRow]:
    """The rows of a source as its kind lists them."""
    match config:
        case JsonlSource():
            return jsonl_rows(config.path)
        case CsvSource():
            return csv_rows(config.path, config.delimiter)
        case FolderSource():
            return folder_rows(config.path)
        case ParquetSource():
            return parquet_rows(config, columns.image)
        case WebDatasetSource():
            return webdataset_rows(config, columns.image)
        case LanceSource():
            return lance_rows(config, columns.image)


def _laid_out(config: SourceConfig, columns: ColumnsConfig) -> ColumnsConfig:
    match config:
        case ParquetSource():
            return laid_out(columns, parquet_schema(config))
        case LanceSource():
            return laid_out(columns, lance_schema(config))
        case _:
            return columns


def _rows(config: SourceConfig, columns: ColumnsConfig, keep: "RowFilter | None") -> Iterator[SourceRow | RejectedRow]:
    reader = RowReader(config, columns)
    rows = raw_rows(config, columns)
    while batch := list(itertools.islice(rows, _ROWS_PER_BATCH)):
        kept = None if keep is None else keep.kept(list(_values(batch)))
        for place, raw in enumerate(batch):
            yield reader.read(raw, filtered=kept is not None and place not in kept)


def _values(rows: Iterable[RawRow]) -> Iterator[Values]:
    """What rows say; nothing of those that can't be understood."""
    for raw in rows:
        try:
            yield raw.values()
        except ValueError:
            yield {}
