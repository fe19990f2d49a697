"""Images that rows name: files, which must lie below their source's folder, and addresses, where these are fetched."""

import functools
import os
import re
import stat
import unicodedata
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

from pairloom.storage.fetching.config import FetchConfig
from pairloom.storage.images.location import Address, ImageAt, file_key, file_version
from pairloom.storage.reasons import Reason
from pairloom.storage.sources.source_row import RejectedRowError

_SCHEME = re.compile(r"\s*([a-z][a-z0-9+.-]*)://", re.IGNORECASE)
_FORMS: tuple[Literal["NFC", "NFD"], ...] = ("NFC", "NFD")


class ImageFolder:
    """Finds images below one folder, which no path may leave: captions are strangers' text.

    With `fetch`, those at addresses as well, which are looked at when they are fetched.
    """

    def __init__(self, folder: Path, fetch: FetchConfig | None = None) -> None:
        self._fetch = fetch
        self._folder = folder
        self._resolved = str(folder.resolve())
        self._inside = self._resolved.rstrip("/") + "/"
        # Rows come folder by folder: each is resolved once.
        self._resolved_folder = functools.lru_cache(maxsize=1_024)(os.path.realpath)
        self._below: dict[str, bool] = {}

    def find(self, image_path: str) -> ImageAt:
        """The image that a row names. Raises RejectedRowError where there is none."""
        if scheme := _SCHEME.match(image_path):
            return self._at_address(image_path.strip(), scheme[1].lower())
        if "\0" in image_path:
            raise RejectedRowError(Reason.MALFORMED_ROW, "the image's path holds a NUL character")
        try:
            return self._at(image_path)
        except RejectedRowError as missing:
            if missing.reason is not Reason.IMAGE_NOT_FOUND:
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
            raise RejectedRowError(Reason.IMAGE_NOT_FOUND, message) from error
        if not stat.S_ISREG(status.st_mode):
            raise RejectedRowError(Reason.IMAGE_NOT_FOUND, f"{image_path} in {self._folder} is not a file")
        return ImageAt(file_key(path), file_version(status), status.st_size, path)

    def _at_address(self, address: str, scheme: str) -> ImageAt:
        if scheme not in ("http", "https"):
            raise RejectedRowError(Reason.ADDRESS_REFUSED, f"{address[:200]}: only http and https are fetched")
        if self._fetch is None:
            message = f"{address[:200]} is an address: `fetch: {{}}` on the source has images fetched"
            raise RejectedRowError(Reason.IMAGE_NOT_FOUND, message)
        version = self._fetch.decided_by
        return ImageAt(address, version, None, Address(address, self._fetch, version))

    def unchanged(self, images: Iterable[tuple[str, str]]) -> list[bool]:
        """Whether `find` would give these keys and versions again; False, too, where only `find` can tell."""
        return [self._is_still(key, version) for key, version in images]

    def _is_still(self, key: str, version: str) -> bool:
        folder = key[: key.rfind("/") + 1]
        below = self._below.get(folder)
        if below is None:
            real = os.path.realpath(folder) + "/"
            below = self._below[folder] = real.startswith(self._inside)
        if not below:
            return False
        try:
            status = os.lstat(key)
        except (OSError, ValueError):
            return False
        # A link, or whatever else may have come here.
        if not stat.S_ISREG(status.st_mode):
            return False
        return file_version(status) == version

    def _check_below(self, real: str, image_path: str) -> None:
        if real != self._resolved and not real.startswith(self._inside):
            raise RejectedRowError(Reason.IMAGE_OUTSIDE_BASE, f"{image_path} is not below {self._folder}")


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
