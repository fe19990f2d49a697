"""Rows of CSV and TSV files, read so that an unclosed quote costs one row."""

import csv
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from pairloom.storage.sources.raw_row import MAX_LINE, RawRow, Values, malformed, not_utf8, numbered_lines, opened

MAX_LINES_OF_ROW = 200
"""Lines one quoted CSV row may span; a longer one is taken for an unclosed quote."""


def csv_rows(path: Path, delimiter: str) -> Iterator[RawRow]:
    """One row per record below the header; empty cells count as absent.

    Where a record spanning several lines makes no sense (an unclosed quote), only its first line is lost. Raises
    ValueError for a header that cannot be read or names a column twice.
    """
    with opened(path) as stream:
        records = _csv_records(stream, delimiter)
        first = next(records, None)
        if first is None:
            return
        if isinstance(first.cells, str):
            raise ValueError(f"the first line of {path} must name the columns: {first.cells}")
        header = [name.strip() for name in first.cells]
        twice = {name for name in header if name and header.count(name) > 1}
        if twice:
            raise ValueError(f"the header of {path} names {', '.join(sorted(twice))} more than once")

        def values(cells: list[str]) -> Values:
            return {name: cell or None for name, cell in zip(header, cells, strict=True) if name}

        for record in records:
            cells = record.cells
            if isinstance(cells, list) and len(cells) != len(header):
                cells = record.rejected(f"{len(cells)} cells under {len(header)} column names")
            problem = cells if isinstance(cells, str) else not_utf8(record.text)
            if problem:
                yield malformed(record.number, record.text, problem, path)
            else:
                yield RawRow(record.number, record.text, cells, values, None, path)


@dataclass
class _Record:
    number: int
    cells: list[str] | str
    """Or what is wrong."""
    lines: list[str]
    waiting: deque[tuple[int, str]]
    """Lines to read before the file's next ones."""

    @property
    def text(self) -> str:
        return "".join(self.lines)

    def rejected(self, problem: str) -> str:
        """`problem`, with all lines but the first given back to be read again."""
        following = [(self.number + offset, line) for offset, line in enumerate(self.lines)][1:]
        self.waiting.extendleft(reversed(following))
        del self.lines[1:]
        return problem


def _csv_records(stream: TextIO, delimiter: str) -> Iterator[_Record]:
    csv.field_size_limit(MAX_LINE)  # the module's only, process-wide setting; its default refuses long captions
    lines = numbered_lines(stream)
    waiting: deque[tuple[int, str]] = deque()

    def following(taken: list[tuple[int, str]]) -> Iterator[str]:
        while len(taken) < MAX_LINES_OF_ROW:
            each = waiting.popleft() if waiting else next(lines, None)
            if each is None:
                return
            taken.append(each)
            yield each[1]

    while True:
        taken: list[tuple[int, str]] = []
        problem = None
        cells: list[str] = []
        try:
            # Strict: a quote closed in the middle of a cell is an error, the usual trace of one left open above.
            cells = next(csv.reader(following(taken), delimiter=delimiter, strict=True))
        except csv.Error as error:
            problem = str(error)
        except StopIteration:
            return
        if not cells and problem is None:  # an empty line
            continue
        record = _Record(taken[0][0], cells, [line for _, line in taken], waiting)
        if problem or any(len(line) == MAX_LINE for line in record.lines):
            record.cells = record.rejected(problem or f"longer than {MAX_LINE} characters")
        yield record
