"""Rows as strangers wrote them: JSON lines, CSV and folders of images, read so that one bad row harms no other."""

import csv
import json
import os
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

MAX_LINE = 4 * 2**20
"""Longest line of a caption file, in characters; a longer one is a malformed row."""

MAX_LINES_OF_ROW = 200
"""Lines one quoted CSV row may span; a longer one is taken for an unclosed quote."""

FOLDER_COLUMNS = ("image", "text", "folder", "name")
"""Columns of a folder's rows: path below it, lines of the sidecar, the image's folder, its name without suffix."""

IMAGE_SUFFIXES = frozenset(
    {".apng", ".avif", ".bmp", ".gif", ".ico", ".jp2", ".jpeg", ".jpg", ".mpo"}
    | {".pgm", ".png", ".ppm", ".tga", ".tif", ".tiff", ".webp"}
)
"""Files in a folder with another suffix are no images, and no rows."""

Values = Mapping[str, object]


@dataclass(frozen=True)
class RawRow:
    """One row: its values by column, or what is wrong with it."""

    number: int
    """Line in the caption file where the row starts, from 1; for a folder the image's place in the sorted listing."""
    values: Values
    text: str
    """What was read: names a row that cannot be understood."""
    problem: str | None = None


def jsonl_rows(path: Path) -> Iterator[RawRow]:
    """One row per non-empty line. NaN and infinities count as absent, as pandas means them."""
    with _opened(path) as stream:
        for number, line in _numbered_lines(stream):
            if line.isspace():
                continue
            try:
                yield RawRow(number, _json_object(line), line)
            except (ValueError, RecursionError) as error:
                yield RawRow(number, {}, line, str(error) or "nested too deeply")


def csv_rows(path: Path, delimiter: str) -> Iterator[RawRow]:
    """One row per record below the header; empty cells count as absent.

    Where a record spanning several lines makes no sense (an unclosed quote), only its first line is lost. Raises
    ValueError for a header that cannot be read or names a column twice.
    """
    with _opened(path) as stream:
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
        for record in records:
            cells = record.cells
            if isinstance(cells, list) and len(cells) != len(header):
                cells = record.rejected(f"{len(cells)} cells under {len(header)} column names")
            problem = cells if isinstance(cells, str) else _not_utf8(record.text)
            values = {} if problem else {name: cell or None for name, cell in zip(header, cells, strict=True) if name}
            yield RawRow(record.number, values, record.text, problem)


def folder_rows(path: Path) -> Iterator[RawRow]:
    """One row per image below `path`, sorted by path; texts are the lines of the `.txt` file of the same stem.

    Hidden files and folders are left out, and linked folders not entered.
    """
    number = 0
    unreadable: list[OSError] = []
    for at, folders, names in os.walk(path, onerror=unreadable.append):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            image = Path(at, name)
            if name.startswith(".") or image.suffix.lower() not in IMAGE_SUFFIXES:
                continue
            number += 1
            below = image.relative_to(path)
            try:
                texts = _sidecar_lines(image.with_suffix(".txt"), path)
            except ValueError as error:
                yield RawRow(number, {}, str(below), str(error))
                continue
            folder = "" if below.parent == Path() else below.parent.as_posix()
            values = {"image": below.as_posix(), "text": texts, "folder": folder, "name": image.stem}
            problem = _not_utf8(below.as_posix())
            yield RawRow(number, {} if problem else values, str(below), problem)
    for place, refusal in enumerate(unreadable, start=number + 1):
        yield RawRow(place, {}, str(refusal.filename), f"{refusal.filename} cannot be read: {refusal.strerror}")


def _opened(path: Path) -> TextIO:
    # Undecodable bytes become lone surrogates, so that they spoil their own row only; CR, LF and CRLF all end lines.
    return path.open(encoding="utf-8-sig", errors="surrogateescape", newline=None)


def _numbered_lines(stream: TextIO) -> Iterator[tuple[int, str]]:
    number = 0
    while line := stream.readline(MAX_LINE):
        number += 1
        rest = line
        while len(rest) == MAX_LINE and not rest.endswith("\n"):
            rest = stream.readline(MAX_LINE)
        yield number, line


def _json_object(line: str) -> Values:
    if len(line) == MAX_LINE:
        raise ValueError(f"longer than {MAX_LINE} characters")
    problem = _not_utf8(line)
    if problem:
        raise ValueError(problem)
    found = json.loads(line, parse_constant=lambda _: None)
    if not isinstance(found, dict):
        raise ValueError(f"not a JSON object but {type(found).__name__}")
    if "\\ud" in line.lower():
        problem = _not_utf8(json.dumps(found, ensure_ascii=False))
        if problem:
            raise ValueError("holds half of a surrogate pair")
    return found


def _not_utf8(text: str) -> str | None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        return f"not UTF-8 at character {error.start}"
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


def _csv_records(stream: TextIO, delimiter: str) -> Iterator[_Record]:
    csv.field_size_limit(MAX_LINE)  # the module's only, process-wide setting; its default refuses long captions
    lines = _numbered_lines(stream)
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


def _sidecar_lines(path: Path, base: Path) -> list[str]:
    if not path.is_file():
        return []
    if not path.resolve().is_relative_to(base.resolve()):
        raise ValueError(f"{path.name} is a link to a file outside {base}")
    try:
        with path.open("rb") as stream:
            content = stream.read(MAX_LINE + 1)
    except OSError as error:
        raise ValueError(f"{path.name} cannot be read: {error.strerror}") from error
    if len(content) > MAX_LINE:
        raise ValueError(f"{path.name} is longer than {MAX_LINE} bytes")
    try:
        return content.decode("utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"{path.name} is not UTF-8 at byte {error.start}") from error
