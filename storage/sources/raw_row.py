"""A row as a stranger wrote it, and the text files that such rows stand in."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

MAX_LINE = 4 * 2**20
"""Longest line of a caption file, in characters; a longer one is a malformed row."""


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
