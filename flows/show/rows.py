"""The rows of a SQL statement in a terminal: a table where its columns fit, else a block a row."""

from typing import Any

import pyarrow as pa
from rich.console import Console
from rich.table import Table

from pairloom.flows.show.console import out
from pairloom.flows.show.line import Line
from pairloom.storage.escaping import plain, plain_lines
from pairloom.storage.plain_values import json_value, plain_values

FOLDED = 36
"""Characters that a cell of a table is folded at, where it has to be."""
LONGEST = 1_000
"""Characters of a value that are shown."""
NUMBERS = 4
"""Of a vector, that are shown."""


def show_result(rows: pa.Table, *, vertical: bool | None = None, console: Console = out) -> None:
    """Show them in the way asked for; for None, as a table if that fits the console's width."""
    if rows.column_names == ["explain_key", "explain_value"]:
        for plan in rows["explain_value"].to_pylist():
            console.out(plain_lines(plan), highlight=False)
        return
    if not len(rows):
        console.print("no rows")
        return
    columns = [[_shown(value) for value in plain_values(column)] for column in rows.columns]
    names = [plain(name) for name in rows.column_names]
    if vertical or (vertical is None and not _fits(names, columns, console.width)):
        _show_blocks(names, columns, console)
    else:
        _show_table(rows.schema, columns, console)


def _show_table(schema: pa.Schema, columns: list[list[str]], console: Console) -> None:
    table = Table(box=None, header_style="bold", pad_edge=False)
    for field in schema:
        number = pa.types.is_integer(field.type) or pa.types.is_floating(field.type) or pa.types.is_decimal(field.type)
        table.add_column(Line(field.name), overflow="fold", justify="right" if number else "left")
    for row in zip(*columns, strict=True):
        table.add_row(*map(Line, row))
    console.print(table)


def _show_blocks(names: list[str], columns: list[list[str]], console: Console) -> None:
    width = min(max(map(len, names)), max(console.width // 3, 1))
    for number, row in enumerate(zip(*columns, strict=True), start=1):
        if number > 1:
            console.print()
        console.print(Line(f"row {number:,} of {len(columns[0]):,}", style="bold"))
        block = Table.grid(padding=(0, 2, 0, 0))
        block.add_column(width=width, overflow="fold", style="dim")
        block.add_column(overflow="fold")
        for name, value in zip(names, row, strict=True):
            block.add_row(Line(name), Line(value))
        console.print(block)


def _fits(names: list[str], columns: list[list[str]], width: int) -> bool:
    """Whether all columns stand side by side, long ones folded."""
    widths = [max(len(name), min(max(map(len, values)), FOLDED)) for name, values in zip(names, columns, strict=True)]
    return sum(widths) + 2 * (len(widths) - 1) <= width


def _shown(value: Any) -> str:
    if isinstance(value, bytes):
        return f"{len(value):,} bytes"
    if isinstance(value, float):
        if not abs(value) < 1e6:
            return f"{value:.6g}"
        return f"{value:.1f}" if value.is_integer() else f"{value:.4f}"
    if isinstance(value, list) and len(value) > NUMBERS and all(isinstance(each, float) for each in value):
        return f"{', '.join(f'{each:.3f}' for each in value[:NUMBERS])}, … ({len(value)} numbers)"
    if isinstance(value, list | tuple):
        return ", ".join(map(_shown, value))[:LONGEST]
    text = "" if value is None else str(json_value(value))
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}…"
