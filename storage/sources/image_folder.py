"""Images that rows name: files, which must lie below their source's folder, and addresses, where these are fetched."""

import functools
import os
import re
import stat
from pathlib import Path

from pairloom.storage.fetching.config import FetchConfig
from pairloom.storage.images.location import Address, ImageAt
from pairloom.storage.sources.source_row import RejectedRowError

_SCHEME = re.compile(r"\s*([a-z][a-z0-9+.-]*)://", re.IGNORECASE)


class ImageFolder:
    """Finds images below one folder, which no path may leave: captions are strangers' text.

    With `fetch`, those at addresses as well, which are looked at when they are fetched.
    """

    def __init__(self, folder: Path, fetch: FetchConfig | None = None) -> None:
        self._fetch = fetch
        self._folder = folder
        self._resolved = folder.resolve()
        # Rows come folder by folder: each is resolved once.
        self._resolved_folder = functools.lru_cache(maxsize=1_024)(os.path.realpath)

    def find(self, image_path: str) -> ImageAt:
        """The image that a row names. Raises RejectedRowError where there is none."""
        if scheme := _SCHEME.match(image_path):
            return self._at_address(image_path.strip(), scheme[1].lower())
        if "\0" in image_path:
            raise RejectedRowError("malformed-row", "the image's path holds a NUL character")
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

    def _at_address(self, address: str, scheme: str) -> ImageAt:
        if scheme not in ("http", "https"):
            raise RejectedRowError("address-refused", f"{address[:200]}: only http and https are fetched")
        if self._fetch is None:
            message = f"{address[:200]} is an address: `fetch: {{}}` on the source has images fetched"
            raise RejectedRowError("image-not-found", message)
        version = self._fetch.decided_by
        return ImageAt(address, version, None, Address(address, self._fetch, version))
