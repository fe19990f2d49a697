"""A row as a stranger wrote it, and the text files that such rows stand in."""

import codecs
import gzip
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, NoReturn, TextIO

from pairloom.storage.images.location import ImageAt
from pairloom.storage.reasons import Reason
from pairloom.storage.sources.file_start import is_gzip
from pairloom.storage.sources.source_row import RejectedRowError

MAX_LINE = 4 * 2**20
"""Longest line of a caption file, in characters; a longer one is a malformed row."""

MOST_LOST = 2**21
"""Rows of a damaged block of a table that are listed one by one: damage may claim any number of them."""

Values = Mapping[str, object]


class RawRow(NamedTuple):
    """One row as its kind of source lists it; what it says is made out when it is asked for."""

    number: int
    """Line in the caption file where the row starts, from 1; for a folder the file's place in the sorted listing."""
    text: str
    """What was read: rows of a file with equal texts say the same. Names a row that cannot be understood."""
    found: Any
    """What `parse` makes the values of."""
    parse: Callable[[Any], Values]
    """Raises ValueError, which says what is wrong with the row."""
    image: ImageAt | None = None
    """Its image, where that is in the source itself; otherwise the image column names a file."""
    file: Path | None = None
    """The file or folder that it stands in; None for a source's only one."""
    absent: str = ""
    """Why it has no image, where its source says so."""
    header: str = ""
    """What else decides what the text says: the names of the columns of its file, say."""

    def values(self) -> Values:
        """Its values by column. Raises ValueError where it can't be understood."""
        return self.parse(self.found)

    def identity(self) -> str:
        """What tells it from other rows of its file: what was read, and why that is no row or has no image."""
        if self.parse is refuse or self.parse is reject:
            return f"{self.text}\0{self.found}"
        return f"{self.text}\0{self.header}\0{self.absent}" if self.header or self.absent else self.text


def malformed(number: int, text: str, problem: str, file: Path | None = None) -> RawRow:
    """A row that can't be understood, and why."""
    return RawRow(number, text, problem, refuse, None, file)


def refuse(problem: str) -> NoReturn:
    """The `parse` of a row that can't be understood."""
    raise ValueError(problem)


def reject(why: tuple[Reason, str]) -> NoReturn:
    """The `parse` of what is no row: reason and message."""
    raise RejectedRowError(*why)


def first_line(error: Exception) -> str:
    """What an error of a library says, in one line."""
    return str(error).strip().partition("\n")[0][:300]


def opened(path: Path, encoding: str = "utf-8") -> TextIO:
    """The text of a file, unpacked where gzip packed it; CR, LF and CRLF all end lines."""
    codec = codecs.lookup(encoding).name
    if codec == "utf-8":
        encoding = "utf-8-sig"
    # Undecodable bytes become lone surrogates, so that they spoil their own row only.
    errors = "surrogatepass" if codec.startswith(("utf-16", "utf-32")) else "surrogateescape"
    if is_gzip(path):
        return gzip.open(path, "rt", encoding=encoding, errors=errors, newline=None)
    return path.open(encoding=encoding, errors=errors, newline=None)


def numbered_lines(stream: TextIO) -> Iterator[tuple[int, str]]:
    """The lines of a file from 1, longer ones cut to MAX_LINE. Raises ValueError where it can't be read on."""
    number = 0
    try:
        while line := stream.readline(MAX_LINE):
            number += 1
            rest = line
            while len(rest) == MAX_LINE and not rest.endswith("\n"):
                rest = stream.readline(MAX_LINE)
            yield number, line
    except (UnicodeError, OSError, EOFError, zlib.error) as error:
        raise ValueError(f"{stream.name} can't be read beyond line {number}: {error}") from error


def not_decoded(text: str) -> str | None:
    """What is wrong with a text that holds bytes of another encoding."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        return (
            f"undecodable at character {error.start}; a file that is not in UTF-8 needs `encoding:` on its source, "
            "such as latin-1"
        )
    return None
