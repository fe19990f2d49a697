"""A digest that a Parquet file carries of itself: page checksums say nothing of page headers and of the footer.

The footer's metadata holds it under a key of ours, which plain readers pass over: first the SHA-256 of all that comes
before the footer, then that of the footer, in which this second one counts as zeros.
"""

import hashlib
import os
import re
from contextlib import nullcontext
from pathlib import Path
from typing import BinaryIO

KEY = "pairloom_seal"
EMPTY = "0" * 128
_HEX = re.compile(rb"[0-9a-f]{128}")
_LAST = 65_536
_TAIL = 8
"""Bytes at the end of every Parquet file: the footer's length and a magic word."""


def seal(path: Path) -> None:
    """Fill in the seal of a file that was written with an `EMPTY` one."""
    with path.open("r+b") as stream:
        start, footer = _footer(stream)
        assert footer.count(EMPTY.encode()) == 1, f"{path} was not written with one empty seal"
        place = footer.index(EMPTY.encode())
        before = _digest_before(stream, start)
        content = before + _digest_of(footer, place, before)
        stream.seek(start + place)
        stream.write(content)


def broken(source: Path | BinaryIO, *, contents: bool = False) -> bool:
    """Whether a file, or an open one, is not what was sealed: its footer, or with `contents` all of it.

    A file of an earlier version has no seal, and none that is broken.
    """
    with source.open("rb") if isinstance(source, Path) else nullcontext(source) as stream:
        start, footer = _footer(stream)
        key = footer.rfind(KEY.encode())
        # Where a bit of the key is another, the digest is still there. Our metadata stands last, in large footers too.
        found = _HEX.search(footer, key if key >= 0 else max(0, len(footer) - _LAST))
        if found is None:
            return key >= 0
        before, own = found[0][:64], found[0][64:]
        if own != _digest_of(footer, found.start(), before):
            return True
        return contents and before != _digest_before(stream, start)


def _footer(stream: BinaryIO) -> tuple[int, bytes]:
    """Where the footer starts, and its bytes to the end of the file."""
    end = stream.seek(0, os.SEEK_END)
    stream.seek(max(0, end - _TAIL))
    length = int.from_bytes(stream.read(4), "little")
    start = stream.seek(max(0, end - _TAIL - length))
    return start, stream.read()


def _digest_before(stream: BinaryIO, end: int) -> bytes:
    stream.seek(0)
    found, left = hashlib.sha256(), end
    while left and (block := stream.read(min(left, 1 << 20))):
        found.update(block)
        left -= len(block)
    return found.hexdigest().encode()


def _digest_of(footer: bytes, place: int, before: bytes) -> bytes:
    content = footer[:place] + before + EMPTY[64:].encode() + footer[place + 128 :]
    return hashlib.sha256(content).hexdigest().encode()
