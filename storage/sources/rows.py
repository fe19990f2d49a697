"""Sources: read as typed rows, one by one; what cannot be one is rejected with a reason."""

import itertools
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from pairloom.storage.schema import ColumnType
from pairloom.storage.sources.columns import ColumnsConfig, OnBadCell
from pairloom.storage.sources.config import (
    CsvSource,
    DelimitedSource,
    FolderSource,
    JsonlSource,
    LanceSource,
    ParquetSource,
    SourceConfig,
    TsvSource,
    WebDatasetSource,
)
from pairloom.storage.sources.delimited import Dialect, csv_rows
from pairloom.storage.sources.folder import folder_rows
from pairloom.storage.sources.jsonl import jsonl_rows
from pairloom.storage.sources.lance import lance_rows, lance_schema
from pairloom.storage.sources.layouts import laid_out
from pairloom.storage.sources.parquet import parquet_rows, parquet_schema
from pairloom.storage.sources.presence import check_columns, check_presence
from pairloom.storage.sources.raw_row import RawRow, Values
from pairloom.storage.sources.row_reader import RowReader
from pairloom.storage.sources.source_row import RejectedRow, SourceRow, UnreadableSourceError
from pairloom.storage.sources.text_rules import TextRules
from pairloom.storage.sources.webdataset import check_shards, webdataset_rows

if TYPE_CHECKING:
    from pairloom.storage.sources.row_filter import RowFilter

_ROWS_PER_BATCH = 1_000
_DEFAULT_RULES = TextRules()


def read_source(
    config: SourceConfig,
    columns: ColumnsConfig,
    rules: TextRules = _DEFAULT_RULES,
    on_bad_cell: OnBadCell = "null",
    bad_cells: Counter[str] | None = None,
) -> Iterator[SourceRow | RejectedRow]:
    """Every row of a source, in its order, none left out.

    `rules` say which texts are none; `bad_cells` counts cells that are null because they are not of their kept column's
    type, by its name.

    Raises UnreadableSourceError, before the first row, for a source that is not there or is of another kind, for
    columns that none of its rows has, and for a `where` that cannot be evaluated; later, where it can't be read on.
    """
    columns = config.columns_over(columns)
    try:
        check_presence(config)
        columns = _laid_out(config, columns)
        for file in config.files:
            next(file_rows(config, file, columns), None)  # what is wrong with a header is told before any row is taken
        check_columns(config, columns, raw_rows(config, columns))
        keep = None
        if config.where is not None:
            # DuckDB, for sources that are filtered.
            from pairloom.storage.sources.row_filter import RowFilter

            as_text = isinstance(config, DelimitedSource)
            declared: dict[str, ColumnType] = (
                dict.fromkeys([columns.image, *columns.texts], "string") if as_text else {}
            )
            declared |= {kept.column: kept.type for kept in columns.kept.values() if kept}
            keep = RowFilter(config.where, _values(raw_rows(config, columns)), declared, as_text=as_text)
    except (ValueError, OSError) as error:
        raise UnreadableSourceError(f"source {config.label}: {error}") from error
    reader = RowReader(config, columns, rules, on_bad_cell, Counter() if bad_cells is None else bad_cells)
    return _rows(config, columns, reader, keep)


def raw_rows(config: SourceConfig, columns: ColumnsConfig) -> Iterator[RawRow]:
    """The rows of a source as its kind lists them, file by file."""
    return itertools.chain.from_iterable(file_rows(config, file, columns) for file in config.files)


def file_rows(config: SourceConfig, file: Path, columns: ColumnsConfig) -> Iterator[RawRow]:
    """The rows of one of a source's files; of a folder where its kind reads such."""
    match config:
        case JsonlSource():
            return jsonl_rows(file, config.encoding)
        case CsvSource() | TsvSource():
            return csv_rows(file, Dialect(config.delimiter, config.quote, config.encoding))
        case FolderSource():
            return folder_rows(file, config.text_from, config.encoding)
        case ParquetSource():
            return _standing_in(file, parquet_rows(config, file, columns.image))
        case WebDatasetSource():
            return _standing_in(file, webdataset_rows(file, columns.image))
        case LanceSource():
            return _standing_in(file, lance_rows(config, file, columns.image))


def _standing_in(file: Path, rows: Iterator[RawRow]) -> Iterator[RawRow]:
    return (row._replace(file=file) for row in rows)


def _laid_out(config: SourceConfig, columns: ColumnsConfig) -> ColumnsConfig:
    """What the columns mean in a table. Raises ValueError where there is nothing of the kind in any of the files."""
    match config:
        case ParquetSource():
            return laid_out(columns, parquet_schema(config.files))
        case LanceSource():
            return laid_out(columns, lance_schema(config, config.files[0]))
        case WebDatasetSource():
            check_shards(config.files)
    return columns


def _rows(
    config: SourceConfig, columns: ColumnsConfig, reader: RowReader, keep: "RowFilter | None"
) -> Iterator[SourceRow | RejectedRow]:
    try:
        for batch in _batches(raw_rows(config, columns)):
            judged = None if keep is None else keep.judge(list(_values(batch)))
            for place, raw in enumerate(batch):
                if judged is None:
                    yield reader.read(raw)
                else:
                    yield reader.read(raw, kept=place in judged.kept, undecided=judged.undecided.get(place))
    except (ValueError, OSError) as error:
        raise UnreadableSourceError(f"source {config.label}: {error}") from error


def _batches(rows: Iterator[RawRow]) -> Iterator[list[RawRow]]:
    """Lists of rows; what stands before the place where a source can't be read on is not lost."""
    batch: list[RawRow] = []
    try:
        for raw in rows:
            batch.append(raw)
            if len(batch) == _ROWS_PER_BATCH:
                yield batch
                batch = []
    except (ValueError, OSError):
        yield batch
        raise
    yield batch


def _values(rows: Iterable[RawRow]) -> Iterator[Values]:
    """What rows say; nothing of those that can't be understood."""
    for raw in rows:
        try:
            yield raw.values()
        except ValueError:
            yield {}
