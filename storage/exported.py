"""Tables written for people and their spreadsheets: CSV, JSON, JSON lines or Parquet, as the file's name says."""

import csv
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa

from pairloom.storage.escaping import json_text
from pairloom.storage.files import written_aside
from pairloom.storage.parquet import sealed_aside
from pairloom.storage.plain_values import json_value, plain_values

SUFFIXES = (".csv", ".json", ".jsonl", ".parquet")

_FORMULA = frozenset("=+-@＝＋－＠\t\r\n")
"""Spreadsheets take a cell that begins so for a formula, and run it."""
_GROUP_ROWS = 16_384
_GROUP_BYTES = 2**26
"""What a row group of Parquet holds at most, but for the batch that fills it."""


def require_exportable(path: Path) -> None:
    """Raises ValueError for a name that doesn't say how to write, and where something other than a file is."""
    if path.suffix.lower() not in SUFFIXES:
        raise ValueError(f"{path}: name a file that ends in {', '.join(SUFFIXES[:-1])} or {SUFFIXES[-1]}")
    if path.exists() and not path.is_file():
        raise ValueError(f"{path} is there and no file")


def export(table: pa.Table, path: Path) -> None:
    """Write `table`, over what is there, whole or not at all. In CSV, what spreadsheets would run gets a `'`."""
    export_batches(table.schema, table.to_batches(), path)


def export_batches(schema: pa.Schema, batches: Iterable[pa.RecordBatch], path: Path) -> int:
    """The same of a table that comes in batches and never stands in memory as a whole; returns how many rows.

    Raises ValueError for a column of a type that the file can't hold.
    """
    require_exportable(path)
    try:
        match path.suffix.lower():
            case ".csv":
                return _write_csv(schema, batches, path)
            case ".parquet":
                return _write_parquet(schema, batches, path)
            case suffix:
                return _write_json(schema, batches, path, lines=suffix == ".jsonl")
    except (pa.ArrowNotImplementedError, pa.ArrowTypeError) as error:
        raise ValueError(f"{path.name} can't hold a column: {str(error).splitlines()[0]}; cast it") from error


def _write_csv(schema: pa.Schema, batches: Iterable[pa.RecordBatch], path: Path) -> int:
    count = 0
    with written_aside(path) as aside, aside.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow([_cell(name) for name in schema.names])
        for rows in map(_rows, batches):
            writer.writerows([_cell(value) for value in row] for row in rows)
            count += len(rows)
    return count


def _write_json(schema: pa.Schema, batches: Iterable[pa.RecordBatch], path: Path, *, lines: bool) -> int:
    count = 0
    with written_aside(path) as aside, aside.open("w", encoding="utf-8") as stream:
        for row in (row for batch in batches for row in _rows(batch)):
            before = "" if lines else ",\n" if count else "[\n"
            stream.write(before + json_text(dict(zip(schema.names, row, strict=True))) + ("\n" if lines else ""))
            count += 1
        if not lines:
            stream.write("\n]\n" if count else "[]\n")
    return count


def _write_parquet(schema: pa.Schema, batches: Iterable[pa.RecordBatch], path: Path) -> int:
    count = 0
    with sealed_aside(path, schema, compression="ZSTD") as writer:
        for table in _groups(schema, batches):
            writer.write_table(table)
            count += len(table)
    return count


def _groups(schema: pa.Schema, batches: Iterable[pa.RecordBatch]) -> Iterator[pa.Table]:
    held: list[pa.RecordBatch] = []
    for batch in batches:
        held.append(batch)
        if sum(map(len, held)) >= _GROUP_ROWS or sum(each.nbytes for each in held) >= _GROUP_BYTES:
            yield pa.Table.from_batches(held, schema)
            held = []
    yield pa.Table.from_batches(held, schema)


def _rows(batch: pa.RecordBatch) -> list[tuple[Any, ...]]:
    """The rows of a batch, of values that JSON can hold."""
    columns = [[json_value(value) for value in plain_values(pa.chunked_array([column]))] for column in batch.columns]
    return list(zip(*columns, strict=True))


def _cell(value: object) -> object:
    match value:
        case str() if value.lstrip(" ")[:1] in _FORMULA and value:
            return f"'{value}"
        case list() | dict():
            return json.dumps(value, ensure_ascii=False)
        case _:
            return value
