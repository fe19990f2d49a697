"""What is wrong with a source as a whole, found before its rows are read."""

import contextlib
import difflib
import os
from collections.abc import Iterator

from pairloom.storage.sources.columns import ColumnsConfig
from pairloom.storage.sources.config import FolderSource, LanceSource, ParquetSource, SourceConfig, WebDatasetSource
from pairloom.storage.sources.folder import FOLDER_COLUMNS
from pairloom.storage.sources.lance import lance_schema
from pairloom.storage.sources.parquet import parquet_schema
from pairloom.storage.sources.raw_row import RawRow
from pairloom.storage.sources.webdataset import check_shards


def check_presence(config: SourceConfig) -> None:
    """Raises ValueError for a source that is not there or may not be read."""
    folder = isinstance(config, FolderSource)
    if isinstance(config, ParquetSource | WebDatasetSource | LanceSource):
        try:
            _check_readable(config)
        except ValueError as error:
            raise ValueError(f"source {config.label}: {error}") from error
    elif not (config.path.is_dir() if folder else config.path.is_file()):
        what = "folder" if folder else "caption file"
        raise ValueError(f"source {config.label}: there is no {what} {config.path}; correct `path`")
    elif not os.access(config.path, os.R_OK):
        raise ValueError(f"source {config.label}: {config.path} may not be read; change its permissions")
    if not config.image_folder.is_dir():
        raise ValueError(
            f"source {config.label}: there is no folder {config.image_folder}; correct `base`, where image paths start"
        )


def _check_readable(config: ParquetSource | WebDatasetSource | LanceSource) -> None:
    """Raises ValueError where none of the source's files can be read."""
    match config:
        case ParquetSource():
            parquet_schema(config)
        case WebDatasetSource():
            check_shards(config)
        case LanceSource():
            lance_schema(config)


def check_columns(config: SourceConfig, columns: ColumnsConfig, rows: Iterator[RawRow]) -> None:
    """Raises ValueError for columns that none of a source's rows has; reads no further than it must."""
    named: dict[str, list[str | None]] = {
        "id": [columns.id],
        "image": [columns.image],
        "texts": [*columns.texts],
        "group": [columns.group],
        "split": [columns.split],
        "keep": [kept.column for kept in columns.kept.values()],
    }
    if isinstance(config, FolderSource):
        named["image"] = named["texts"] = []
    missing = {(column, use): None for use, group in named.items() for column in group if column is not None}
    present: dict[str, None] = dict.fromkeys(FOLDER_COLUMNS) if isinstance(config, FolderSource) else {}
    # The first row usually has them all, and nothing more is read.
    while missing := {each: None for each in missing if each[0] not in present}:
        raw = next(rows, None)
        if raw is None:
            break
        with contextlib.suppress(ValueError):
            present |= dict.fromkeys(raw.values())
    for column, use in missing:
        if present:
            near = difflib.get_close_matches(column, present, n=3, cutoff=0.5)
            hint = f"did you mean {' or '.join(near)}? " if near else ""
            raise ValueError(
                f"no row of source {config.label} has the column {column} that `columns.{use}` names: "
                f"{hint}It has {', '.join(present)}"
            )
