"""Image files that rows name, which must lie below their source's folder."""

import functools
import itertools
import os
import stat
import unicodedata
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

from pairloom.storage.images.location import ImageAt
from pairloom.storage.sources.source_row import RejectedRowError

LEVELS_ABOVE, LEVELS_BELOW, FOLDERS_BELOW = 2, 2, 500
"""How far is looked for a folder that the images are in."""
_FORMS: tuple[Literal["NFC", "NFD"], ...] = ("NFC", "NFD")


class ImageFolder:
    """Finds images below one folder, which no path may leave: captions are strangers' text."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._resolved = str(folder.resolve())
        self._inside = self._resolved.rstrip("/") + "/"
        # Rows come folder by folder: each is resolved once.
        self._resolved_folder = functools.lru_cache(maxsize=1_024)(os.path.realpath)

    def find(self, image_path: str) -> ImageAt:
        """The image file that a row names. Raises RejectedRowError where there is none."""
        if "\0" in image_path:
            raise RejectedRowError("malformed-row", "the image's path holds a NUL character")
        if image_path.partition("://")[0] in ("http", "https", "s3", "gs", "data"):
            raise RejectedRowError("image-not-found", f"{image_path[:200]} is an address: download the image first")
        try:
            return self._at(image_path)
        except RejectedRowError as missing:
            if missing.reason != "image-not-found":
                raise
            found = [at for each in _spellings(image_path) if (at := self._possible(each))]
            if len(found) == 1:
                return found[0]
            raise

    def _possible(self, image_path: str) -> ImageAt | None:
        try:
            return self._at(image_path)
        except RejectedRowError:
            return None

    def _at(self, image_path: str) -> ImageAt:
        path = self._folder / image_path
        written = str(path)
        parent, name = os.path.split(written)
        # Resolved before it is looked at, so that nothing can be learnt about files elsewhere.
        real = os.path.realpath(written) if name in ("", "..") else os.path.join(self._resolved_folder(parent), name)  # noqa: PTH118
        try:
            self._check_below(real, image_path)
            status = os.lstat(real)
            if stat.S_ISLNK(status.st_mode):
                real = os.path.realpath(real)
                self._check_below(real, image_path)
                status = os.stat(real)  # noqa: PTH116
        except OSError as error:
            message = f"{image_path[:1_000]} in {self._folder}: {error.strerror}"
            raise RejectedRowError("image-not-found", message) from error
        if not stat.S_ISREG(status.st_mode):
            raise RejectedRowError("image-not-found", f"{image_path} in {self._folder} is not a file")
        # A folder's name may hold bytes that are not UTF-8.
        key = written if written.isascii() else written.encode(errors="backslashreplace").decode()
        return ImageAt(key, f"{status.st_size}:{status.st_mtime_ns}", status.st_size, path)

    def _check_below(self, real: str, image_path: str) -> None:
        if real != self._resolved and not real.startswith(self._inside):
            raise RejectedRowError("image-outside-base", f"{image_path} is not below {self._folder}")


def _spellings(image_path: str) -> list[str]:
    """Other ways to write a path: accents composed or decomposed, as file systems differ in, `/` for a backslash."""
    found: dict[str, None] = {}
    for path in dict.fromkeys((image_path, image_path.replace("\\", "/"))):
        above, slash, name = path.rpartition("/")
        for form in _FORMS:
            found[unicodedata.normalize(form, path)] = None
            found[above + slash + unicodedata.normalize(form, name)] = None
        found[path] = None
    return [path for path in found if path != image_path]


def likely_base(folder: Path, image_paths: Sequence[str]) -> Path | None:
    """A folder above or below `folder` that holds images which it doesn't; None where there is none that is near."""
    inside = [path for path in image_paths if not path.startswith("/") and ".." not in path.split("/")]
    above = [*folder.parents][:LEVELS_ABOVE]
    for candidate in itertools.chain(above, itertools.islice(_below(folder, LEVELS_BELOW), FOLDERS_BELOW)):
        if inside and all((candidate / path).is_file() for path in inside):
            return candidate
    return None


def _below(folder: Path, levels: int) -> Iterator[Path]:
    try:
        inside = sorted(each for each in folder.iterdir() if each.is_dir() and not each.name.startswith("."))
    except OSError:
        return
    yield from inside
    if levels > 1:
        for each in inside:
            yield from _below(each, levels - 1)
