"""Where the bytes of an image are: in a file of their own, inside a larger one, or to be asked for."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class FileSlice:
    """Bytes inside a file, such as a member of a tar: read where they are, never extracted."""

    path: Path
    offset: int
    length: int


class NoImageError(ValueError):
    """Raised by what reads the bytes where there are none."""


Origin = Path | FileSlice | Callable[[], bytes]
"""A file, a part of one, or what reads the bytes: called in a thread of the decoder, raises
NoImageError, OSError or ValueError."""


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
