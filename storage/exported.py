"""Tables written for people and their spreadsheets: CSV, JSON lines or Parquet, as the file's name says."""

import csv
import json
from datetime import datetime
from pathlib import Path

import pyarrow as pa

from pairloom.storage.files import written_aside
from pairloom.storage.parquet import write_parquet

SUFFIXES = (".csv", ".jsonl", ".parquet")

_FORMULA = frozenset("=+-@＝＋－＠\t\r\n")
"""Spreadsheets take a cell that begins so for a formula, and run it."""


def require_exportable(path: Path) -> None:
    """Raises ValueError for a name that doesn't say how to write, and where something other than a file is."""
    if path.suffix.lower() not in SUFFIXES:
        raise ValueError(f"{path}: name a file that ends in {', '.join(SUFFIXES[:-1])} or {SUFFIXES[-1]}")
    if path.exists() and not path.is_file():
        raise ValueError(f"{path} is there and no file")


def export(table: pa.Table, path: Path) -> None:
    """Write `table`, over what is there, whole or not at all. In CSV, what spreadsheets would run gets a `'`."""
    require_exportable(path)
    match path.suffix.lower():
        case ".csv":
            with written_aside(path) as aside, aside.open("w", encoding="utf-8", newline="") as stream:
                writer = csv.writer(stream)
                writer.writerow(table.column_names)
                for batch in table.to_batches():
                    writer.writerows([_cell(value) for value in row.values()] for row in batch.to_pylist())
        case ".jsonl":
            with written_aside(path) as aside, aside.open("w", encoding="utf-8") as stream:
                for batch in table.to_batches():
                    stream.writelines(f"{json.dumps(row, default=datetime.isoformat)}\n" for row in batch.to_pylist())
        case _:
            write_parquet(table, path)


def _cell(value: object) -> object:
    match value:
        case datetime():
            return value.isoformat()
        case str() if value.lstrip(" ")[:1] in _FORMULA and value:
            return f"'{value}"
        case _:
            return value
