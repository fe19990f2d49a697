"""Image files that rows name, which must lie below their source's folder."""

import functools
import os
import stat
from collections.abc import Iterable
from pathlib import Path

from pairloom.storage.images.location import ImageAt
from pairloom.storage.sources.source_row import RejectedRowError


class ImageFolder:
    """Finds images below one folder, which no path may leave: captions are strangers' text."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._resolved = folder.resolve()
        # Rows come folder by folder: each is resolved once.
        self._resolved_folder = functools.lru_cache(maxsize=1_024)(os.path.realpath)
        self._below: dict[str, bool] = {}

    def find(self, image_path: str) -> ImageAt:
        """The image file that a row names. Raises RejectedRowError where there is none."""
        if "\0" in image_path:
            raise RejectedRowError("malformed-row", "the image's path holds a NUL character")
        if image_path.partition("://")[0] in ("http", "https", "s3", "gs", "data"):
            raise RejectedRowError("image-not-found", f"{image_path[:200]} is an address: download the image first")
        path = self._folder / image_path
        # Resolved before it is looked at, so that nothing can be learnt about files elsewhere.
        real = Path(self._resolved_folder(path.parent), path.name) if path.name not in ("", "..") else path.resolve()
        try:
            if real.is_symlink():
                real = real.resolve()
            if not real.is_relative_to(self._resolved):
                raise RejectedRowError("image-outside-base", f"{image_path} is not below {self._folder}")
            status = real.stat()
        except (OSError, RuntimeError) as error:
            what = error.strerror if isinstance(error, OSError) else str(error)
            raise RejectedRowError("image-not-found", f"{image_path[:1_000]} in {self._folder}: {what}") from error
        if not stat.S_ISREG(status.st_mode):
            raise RejectedRowError("image-not-found", f"{image_path} in {self._folder} is not a file")
        # A folder's name may hold bytes that are not UTF-8.
        key = str(path).encode(errors="backslashreplace").decode()
        return ImageAt(key, f"{status.st_size}:{status.st_mtime_ns}", status.st_size, path)

    def unchanged(self, images: Iterable[tuple[str, str]]) -> list[bool]:
        """Whether `find` would give these keys and versions again; False, too, where only `find` can tell."""
        return [self._is_still(key, version) for key, version in images]

    def _is_still(self, key: str, version: str) -> bool:
        folder = key[: key.rfind("/") + 1]
        below = self._below.get(folder)
        if below is None:
            below = self._below[folder] = Path(os.path.realpath(folder)).is_relative_to(self._resolved)
        if not below:
            return False
        try:
            status = os.lstat(key)
        except (OSError, ValueError):
            return False
        # A link, or whatever else may have come here.
        if not stat.S_ISREG(status.st_mode):
            return False
        return f"{status.st_size}:{status.st_mtime_ns}" == version
