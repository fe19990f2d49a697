"""What is wrong with a source as a whole, found before its rows are read."""

import contextlib
import difflib
import os
from collections.abc import Iterator

from pairloom.storage.sources.columns import ColumnsConfig
from pairloom.storage.sources.config import FolderSource, SourceConfig
from pairloom.storage.sources.folder import FOLDER_COLUMNS
from pairloom.storage.sources.raw_row import RawRow


def check_presence(config: SourceConfig) -> None:
    """Raises ValueError for a source that is not there or may not be read."""
    for file in config.files:
        if not config.fits(file):
            raise ValueError(f"there is no {config.what} {file}; correct `path`")
        if not os.access(file, os.R_OK):
            raise ValueError(f"{file} may not be read; change its permissions")
        if not (folder := config.image_folder(file)).is_dir():
            raise ValueError(f"there is no folder {folder}; correct `base`, where image paths start")


def check_columns(config: SourceConfig, columns: ColumnsConfig, rows: Iterator[RawRow]) -> None:
    """Raises ValueError for columns that none of a source's rows has; reads no further than it must.

    `columns` are the source's, over the pipeline's: of columns kept by the pipeline, a source that has `columns` of its
    own must have those that it names.
    """
    required = columns.keep if config.columns is None else config.columns.keep
    named: dict[str, list[str | None]] = {
        "id": [columns.id],
        "image": [columns.image],
        "texts": [*columns.texts],
        "group": [columns.group],
        "split": [columns.split],
        "keep": [kept.column for name, kept in columns.kept.items() if kept and name in required],
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
                f"no row has the column {column} that `columns.{use}` names: "
                f"{hint}It has {', '.join(present)}{_how_to_do_without(columns, column, use)}"
            )


def _how_to_do_without(columns: ColumnsConfig, column: str, use: str) -> str:
    if use in ("image", "texts"):
        return ""
    name = next((name for name, kept in columns.kept.items() if use == "keep" and kept and kept.column == column), None)
    said = f"{{keep: {{{name}: null}}}}" if name else f"{{{use}: null}}"
    return f"; if it is to do without, say so on this source: `columns: {said}`"
