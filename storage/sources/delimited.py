"""Rows of CSV and TSV files, read so that an unclosed quote costs one row."""

import csv
import re
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from pairloom.storage.sources.file_start import check_start
from pairloom.storage.sources.raw_row import MAX_LINE, RawRow, Values, malformed, not_decoded, numbered_lines, opened

MAX_LINES_OF_ROW = 200
"""Lines one quoted CSV row may span; a longer one is taken for an unclosed quote."""

_ADVICE = "; where quotes are text like any other, say `quote: none`"
_DELIMITERS = {";": '`delimiter: ";"`', "\t": "`kind: tsv`", "|": '`delimiter: "|"`', ",": '`delimiter: ","`'}
_NAMES_A_FILE = re.compile(r"\S.*\.[A-Za-z]\w{0,4}|\w+://.+", re.DOTALL)


@dataclass(frozen=True)
class Dialect:
    """How cells are told apart, and characters."""

    delimiter: str = ","
    quote: str = '"'
    """Or `none`: quotes are text like any other."""
    encoding: str = "utf-8"

    @property
    def reader(self) -> dict[str, Any]:
        """The same as options of `csv.reader`."""
        quoted = self.quote != "none"
        return {
            "delimiter": self.delimiter,
            "quotechar": self.quote if quoted else None,
            "quoting": csv.QUOTE_MINIMAL if quoted else csv.QUOTE_NONE,
        }


def csv_rows(path: Path, dialect: Dialect) -> Iterator[RawRow]:
    """One row per record below the header; empty cells count as absent.

    Where a record spanning several lines makes no sense (an unclosed quote), only its first line is lost. Raises
    ValueError for a file of another kind, for a header that cannot be read, names no column or one twice, and where
    the file can't be read on.
    """
    check_start(path, dialect.encoding, json_lines=False)
    with opened(path, dialect.encoding) as stream:
        records = _csv_records(stream, dialect)
        first = next(records, None)
        if first is None:
            return
        header = _header(path, first, dialect)

        named = "\0".join(header)

        def values(cells: list[str]) -> Values:
            return {name: cell or None for name, cell in zip(header, cells, strict=True) if name}

        for record in records:
            cells = record.cells
            if isinstance(cells, list) and len(cells) != len(header):
                cells = record.rejected(f"{len(cells)} cells under {len(header)} column names")
            elif len(record.lines) > 1 and _runs_over_rows(record.lines, len(header), dialect):
                cells = record.rejected(
                    f"a quote is opened here and closed in line {record.number + len(record.lines) - 1}, with rows "
                    f"between{_ADVICE}"
                )
            problem = cells if isinstance(cells, str) else not_decoded(record.text)
            if problem:
                yield malformed(record.number, record.text, problem, path)
            else:
                yield RawRow(record.number, record.text, cells, values, None, path, header=named)


def _header(path: Path, first: "_Record", dialect: Dialect) -> list[str]:
    if isinstance(first.cells, str):
        raise ValueError(f"the first line of {path} must name the columns: {first.cells}")
    header = [name.strip() for name in first.cells]
    if not any(header):
        raise ValueError(f"the first line of {path} must name the columns, and is empty")
    twice = {name for name in header if name and header.count(name) > 1}
    if twice:
        raise ValueError(f"the header of {path} names {', '.join(sorted(twice))} more than once")
    if len(header) == 1:
        for other, remedy in _DELIMITERS.items():
            if other != dialect.delimiter and other in header[0]:
                raise ValueError(f"the header of {path} is one column, {header[0]!r:.100}: say {remedy}")
    return header


def _runs_over_rows(lines: list[str], width: int, dialect: Dialect) -> bool:
    """Whether each line of a record would be a row itself: then a quote was left open, not a text broken into lines.

    A line is one where it has as many cells as the header and names a file or an address where the first line does.
    """
    first = _cells_of_line(lines[0], width, dialect)
    others = [_cells_of_line(line, width, dialect) for line in lines[1:]]
    if first is None:
        return False
    quote = dialect.quote
    files = [n for n, cell in enumerate(first) if not cell.startswith(quote) and _NAMES_A_FILE.fullmatch(cell)]
    return all(cells and all(_NAMES_A_FILE.fullmatch(cells[place]) for place in files) for cells in others)


def _cells_of_line(line: str, width: int, dialect: Dialect) -> list[str] | None:
    """The cells of a line that stands alone, quotes as text or as quotes; None where they are not `width`."""
    line = line.rstrip("\n")
    for quoting in (csv.QUOTE_NONE, csv.QUOTE_MINIMAL):
        try:
            cells = next(csv.reader([line], **{**dialect.reader, "quoting": quoting}))
        except (csv.Error, StopIteration):
            continue
        if len(cells) == width:
            whole = re.compile(f"{re.escape(dialect.quote)}(.*){re.escape(dialect.quote)}", re.DOTALL)
            return [match[1] if (match := whole.fullmatch(cell)) else cell for cell in cells]
    return None


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


def _csv_records(stream: TextIO, dialect: Dialect) -> Iterator[_Record]:
    csv.field_size_limit(MAX_LINE)  # the module's only, process-wide setting; its default refuses long captions
    options = dialect.reader
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
            cells = next(csv.reader(following(taken), strict=True, **options))
        except csv.Error as error:
            problem = f"{error}{_ADVICE}"
        except StopIteration:
            return
        if not cells and problem is None:  # an empty line
            continue
        record = _Record(taken[0][0], cells, [line for _, line in taken], waiting)
        if problem or any(len(line) == MAX_LINE for line in record.lines):
            record.cells = record.rejected(problem or f"longer than {MAX_LINE} characters")
        yield record
