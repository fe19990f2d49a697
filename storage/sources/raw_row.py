"""A row as a stranger wrote it, and the text files that such rows stand in."""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, NoReturn, TextIO

from pairloom.storage.images.location import ImageAt

MAX_LINE = 4 * 2**20
"""Longest line of a caption file, in characters; a longer one is a malformed row."""


Values = Mapping[str, object]


class RawRow(NamedTuple):
    """One row as its kind of source lists it; what it says is made out when it is asked for."""

    number: int
    """Line in the caption file where the row starts, from 1; for a folder the image's place in the sorted listing."""
    text: str
    """What was read: rows of a source with equal texts say the same. Names a row that cannot be understood."""
    found: Any
    """What `parse` makes the values of."""
    parse: Callable[[Any], Values]
    """Raises ValueError, which says what is wrong with the row."""
    image: ImageAt | None = None
    """Its image, where that is in the source itself; otherwise the image column names a file."""

    def values(self) -> Values:
        """Its values by column. Raises ValueError where it can't be understood."""
        return self.parse(self.found)

    def identity(self) -> str:
        """What tells it from other rows of its source: what was read, and why that can't be understood."""
        return self.text if self.parse is not _refuse else f"{self.text}\0{self.found}"


def malformed(number: int, text: str, problem: str) -> RawRow:
    """A row that can't be understood, and why."""
    return RawRow(number, text, problem, _refuse)


def _refuse(problem: str) -> NoReturn:
    raise ValueError(problem)


def opened(path: Path) -> TextIO:
    # Undecodable bytes become lone surrogates, so that they spoil their own row only; CR, LF and CRLF all end lines.
    return path.open(encoding="utf-8-sig", errors="surrogateescape", newline=None)


def numbered_lines(stream: TextIO) -> Iterator[tuple[int, str]]:
    number = 0
    while line := stream.readline(MAX_LINE):
        number += 1
        rest = line
        while len(rest) == MAX_LINE and not rest.endswith("\n"):
            rest = stream.readline(MAX_LINE)
        yield number, line


def not_utf8(text: str) -> str | None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        return f"not UTF-8 at character {error.start}"
    return None
