"""Members of a tar archive, found by their headers alone: whatever an archive claims, nothing beside it is touched.

The standard library's tarfile reads what a header claims into memory, however much that is, and with a negative size
may never end; it also ends at the first damaged header.
"""

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

_BLOCK = 512
_ZEROS = bytes(_BLOCK)
_LONGEST_EXTENSION = 2**20
"""Bytes of the longest name or other addition to a header that is read."""
_LONGEST_NAME = 4_096
_SEARCHED = 2**26
"""Bytes of a file in which at least one header must be found."""
_REGULAR = (b"0", b"\0", b"7")
_WITHOUT_DATA = {
    b"1": "is a link, which isn't followed",
    b"2": "is a link, which isn't followed",
    b"3": "is a device",
    b"4": "is a device",
    b"6": "is a pipe",
}
_MAGIC = {
    b"\x1f\x8b": "gzip",
    b"BZh": "bzip2",
    b"\xfd7zXZ": "xz",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"\x04\x22\x4d\x18": "lz4",
}
_RECORD = re.compile(rb"([0-9]{1,20}) ([^=]+)=")


@dataclass(frozen=True, slots=True)
class Member:
    """One member that has, or claims to have, bytes of its own."""

    name: str
    """As the archive has it; empty where that can't be told."""
    offset: int
    """Of its bytes in the archive."""
    size: int
    problem: str = ""
    """Why it can't be used."""


def check_tar(path: Path) -> None:
    """Raises ValueError for a file that is no tar archive, OSError for one that can't be read."""
    with path.open("rb", buffering=0) as file:
        start = os.pread(file.fileno(), _BLOCK, 0)
        if not start:
            raise ValueError("it is empty")
        for magic, name in _MAGIC.items():
            if start.startswith(magic):
                raise ValueError(f"it is compressed with {name}: decompress it, images are read where they stand in it")
        end = min(os.fstat(file.fileno()).st_size, _SEARCHED)
        if start != _ZEROS and _header(start) is None and _next_header(file.fileno(), 0, end) == end:
            raise ValueError("it is no tar archive")


def tar_members(path: Path) -> Iterator[Member]:
    """All members but folders, in their order; what is damaged is a member with a problem, and the next follow."""
    with path.open("rb", buffering=0) as file:
        yield from _Walk(file.fileno()).members()


@dataclass(frozen=True, slots=True)
class _Header:
    name: bytes
    size: int
    kind: bytes
    goes_on: bool
    """Whether blocks with more of a sparse member's map follow."""


class _Walk:
    """From header to header."""

    def __init__(self, file: int) -> None:
        self._file = file
        self._end = os.fstat(file).st_size
        self._at = 0
        self._forget()

    def _forget(self) -> None:
        """What additional headers say is said of the next member only."""
        self._name: bytes | None = None
        self._size: int | None = None
        self._problem = ""

    def members(self) -> Iterator[Member]:
        while self._at < self._end:
            block = os.pread(self._file, _BLOCK, self._at)
            if block == _ZEROS:
                yield from self._behind()
                continue
            header = _header(block)
            if header is None:
                start, self._at = self._at, _next_header(self._file, self._at + _BLOCK, self._end)
                self._forget()
                yield Member(
                    "", start, 0, f"the header at byte {start} is damaged: {self._at - start} bytes are skipped"
                )
                continue
            self._at += _BLOCK
            if header.kind in (b"L", b"K", b"x", b"X", b"g"):
                self._add(header)
                continue
            member = self._member(header)
            if member is not None:
                yield member
            self._forget()

    def _member(self, header: _Header) -> Member | None:
        """The member, with the walk moved on behind its bytes; None for a folder."""
        raw = header.name if self._name is None else self._name
        name, problem = _name(raw)
        problem = self._problem or problem
        folder = header.kind == b"5" or (header.kind == b"\0" and raw.endswith(b"/"))
        if folder or header.kind in _WITHOUT_DATA:
            return None if folder else Member(name, self._at, 0, problem or f"{name} {_WITHOUT_DATA[header.kind]}")
        if header.kind == b"S":
            problem = problem or f"{name} is a sparse file"
            self._skip_map(header)
        elif header.kind not in _REGULAR:
            problem = problem or f"{name} is of no kind that is read"
        size = header.size if self._size is None else self._size
        offset = self._at
        if offset + size > self._end:
            problem = problem or f"{name} should have {size} bytes, but the archive ends after {self._end - offset}"
            self._at = _next_header(self._file, offset, self._end)
            return Member(name, offset, 0, problem)
        self._at += _padded(size)
        return Member(name, offset, size, problem)

    def _add(self, header: _Header) -> None:
        """Take down what an additional header says of the next member."""
        start = self._at
        if start + header.size > self._end:
            self._problem = f"the header at byte {start - _BLOCK} should have {header.size} bytes more than there are"
            self._at = _next_header(self._file, start, self._end)
            return
        self._at += _padded(header.size)
        # A header for all members (g) may name a size or a name of theirs, which makes no sense.
        if header.kind in (b"K", b"g"):
            return
        if header.size > _LONGEST_EXTENSION:
            self._problem = f"the header at byte {start - _BLOCK} has {header.size} bytes"
            return
        content = os.pread(self._file, header.size, start)
        if header.kind == b"L":
            self._name = content.rstrip(b"\0")
            return
        try:
            said = _pax(content)
            self._name = said.get(b"path", self._name)
            if b"size" in said:
                self._size = _digits(said[b"size"])
        except ValueError as error:
            self._problem = f"the header at byte {start - _BLOCK} is damaged: {error}"
            return
        if any(key.startswith(b"GNU.sparse") for key in said):
            self._problem = "it is a sparse file"

    def _skip_map(self, header: _Header) -> None:
        goes_on = header.goes_on
        while goes_on and self._at < self._end:
            block = os.pread(self._file, _BLOCK, self._at)
            self._at += _BLOCK
            goes_on = block[504:505] not in (b"", b"\0")

    def _behind(self) -> Iterator[Member]:
        """What follows a block of zeros: nothing, or more where that is damage or archives were joined."""
        start, self._at = self._at, _next_header(self._file, self._at + _BLOCK, self._end)
        self._forget()
        if self._at < self._end or os.pread(self._file, 2**20, start).strip(b"\0"):
            rest = self._at - start
            yield Member(
                "", start, 0, f"the archive seems to end at byte {start}: {rest} bytes behind that are skipped"
            )


def _header(block: bytes) -> _Header | None:
    """What a block says that is a header, None for one that isn't or is damaged."""
    if len(block) < _BLOCK:
        return None
    try:
        expected = _octal(block[148:156])
        # The sum counts its own field as blanks; some old writers add signed bytes.
        blanked = block[:148] + b" " * 8 + block[156:]
        if expected != sum(blanked) and expected != sum(each - 256 if each > 127 else each for each in blanked):
            return None
        size = _size(block[124:136])
    except ValueError:
        return None
    name, prefix = block[:100].partition(b"\0")[0], block[345:500].partition(b"\0")[0]
    if prefix and block[257:263] == b"ustar\0":
        name = prefix + b"/" + name
    return _Header(name, size, block[156:157], block[482] != 0)


def _next_header(file: int, start: int, end: int) -> int:
    """Where the next whole header begins that says it is one; `end` where there is none."""
    while start < end:
        chunk = os.pread(file, 2**20, start)
        found = chunk.find(b"ustar")
        while found >= 0:
            at = found - 257
            if at >= 0 and at % _BLOCK == 0 and _header(chunk[at : at + _BLOCK]) is not None:
                return start + at
            found = chunk.find(b"ustar", found + 1)
        start += 2**20
    return end


def _octal(field: bytes) -> int:
    return _digits(field.partition(b"\0")[0].strip(b" ") or b"0", 8)


def _digits(text: bytes, base: int = 10) -> int:
    # Python also takes signs and underscores.
    if not text.isdigit() or len(text) > 20:
        raise ValueError(f"{text[:40]!r} is no size")
    return int(text, base)


def _size(field: bytes) -> int:
    if field[0] & 0x80:
        # A negative one is more than any file has.
        return int.from_bytes(bytes([field[0] & 0x7F]) + field[1:], "big")
    return _octal(field)


def _padded(size: int) -> int:
    return -(-size // _BLOCK) * _BLOCK


def _pax(content: bytes) -> dict[bytes, bytes]:
    found: dict[bytes, bytes] = {}
    at = 0
    while at < len(content) and content[at]:
        record = _RECORD.match(content, at)
        end = at + int(record[1]) if record else 0
        if record is None or not record.end() < end <= len(content) or content[end - 1 : end] != b"\n":
            raise ValueError("a record's length is wrong")
        found[record[2]] = content[record.end() : end - 1]
        at = end
    return found


def _name(raw: bytes) -> tuple[str, str]:
    """A member's name, and what is wrong with it."""
    try:
        name = raw.decode()
    except UnicodeDecodeError:
        return raw.decode(errors="backslashreplace")[:_LONGEST_NAME], f"the name {raw[:200]!r} is not UTF-8"
    if len(raw) > _LONGEST_NAME:
        return name[:_LONGEST_NAME], f"a name of {len(raw)} bytes"
    if not name.isprintable():
        return repr(name)[1:-1], f"the name {name[:200]!r} holds control characters"
    parts = PurePosixPath(name).parts
    if ".." in parts or name.startswith("/"):
        return name, f"the name {name[:200]} leads out of the archive"
    return name, "" if name else "a member without a name"
