"""Where the bytes of an image are: in a file of their own, inside a larger one, or to be asked for."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pairloom.storage.escaping import utf8

if TYPE_CHECKING:
    # The children that decode images import this module, and need no pydantic.
    from pairloom.storage.fetching.config import FetchConfig


@dataclass(frozen=True, slots=True)
class FileSlice:
    """Bytes inside a file, such as a member of a tar: read where they are, never extracted."""

    path: Path
    offset: int
    length: int


@dataclass(frozen=True, slots=True)
class Address:
    """Bytes at an http(s) address, and how they may be fetched; what is at it was written by a stranger, as it was."""

    url: str
    fetch: "FetchConfig"
    version: str
    """As that of the image."""


class NoImageError(ValueError):
    """Raised by what reads the bytes where there are none."""


Origin = Path | FileSlice | Callable[[], bytes] | Address
"""A file, a part of one, what reads the bytes (called in a thread of the decoder, raises NoImageError, OSError or
ValueError), or their address, which `pairloom.storage.ingestion.addresses` turns into what reads them."""


def file_key(path: Path) -> str:
    """What names a file as an image's place, or as the file that images are in."""
    return utf8(str(path))


def file_version(status: os.stat_result) -> str:
    """What is equal only for equal bytes of a file: its size and modification time in nanoseconds."""
    return f"{status.st_size}:{status.st_mtime_ns}"


@dataclass(frozen=True, slots=True)
class ImageAt:
    """One image's place, and what tells whether it has changed there."""

    key: str
    """Names the place among all of a pipeline's images: a path, say."""
    version: str
    """Equal only for equal bytes at this place: size and modification time of the file, say."""
    length: int | None
    """Of the image in bytes, None where only reading it can tell."""
    origin: Origin
    beside: bool = False
    """Whether it is in the source itself, but may also be in a file beside that."""
