"""The kinds of sources: how each lists its rows."""

import itertools
from collections.abc import Iterator
from pathlib import Path

from pairloom.storage.digest import digest
from pairloom.storage.sources.columns import ColumnsConfig
from pairloom.storage.sources.config import (
    CsvSource,
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
from pairloom.storage.sources.lance import lance_rows, lance_schema, lance_version
from pairloom.storage.sources.layouts import laid_out
from pairloom.storage.sources.parquet import parquet_rows, parquet_schema, parquet_version
from pairloom.storage.sources.raw_row import RawRow
from pairloom.storage.sources.webdataset import check_shards, webdataset_rows, webdataset_version


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


def columns_of(config: SourceConfig, columns: ColumnsConfig) -> ColumnsConfig:
    """What the columns mean in this source. Raises ValueError where nothing of its kind is in any of its files."""
    columns = config.columns_over(columns)
    match config:
        case ParquetSource():
            return laid_out(columns, parquet_schema(config.files))
        case LanceSource():
            return laid_out(columns, lance_schema(config, config.files[0]))
        case WebDatasetSource():
            check_shards(config.files)
    return columns


def source_version(config: SourceConfig) -> str | None:
    """What changes with anything in a source's files, for kinds whose images are inside; None for others."""
    match config:
        case ParquetSource():
            return digest([parquet_version(file) for file in config.files])
        case WebDatasetSource():
            return digest([webdataset_version(file) for file in config.files])
        case LanceSource():
            return digest([lance_version(config, file) for file in config.files])
        case JsonlSource() | CsvSource() | TsvSource() | FolderSource():
            # Their images are files of their own.
            return None


def _standing_in(file: Path, rows: Iterator[RawRow]) -> Iterator[RawRow]:
    return (row._replace(file=file) for row in rows)
