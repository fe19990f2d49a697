"""What object storage has said a moment ago to a night, whose stages ask the same things: so it is asked once.

Only that something is there is remembered, and only for `SECONDS`; which records there are is always asked. So what
another process publishes meanwhile is found, and what this one deletes or puts is asked for again. What was read of
records and parts is kept for longer: that it is in them still is known by the tag that the storage gives an object's
contents.
"""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

SECONDS = 10.0
_MOST = 64 << 20
"""Bytes of contents that are kept."""


class _Said:
    """By the address of an object: what a listing, or the storage asked for it alone, said of it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._nights = 0
        self._there: dict[str, tuple[float, Any]] = {}
        self._contents: dict[tuple[str, str], bytes] = {}
        self._bytes = 0

    def begin(self) -> None:
        """Remember from now on."""
        with self._lock:
            self._nights += 1

    def end(self) -> None:
        """Forget all, but where another night of this process still runs."""
        with self._lock:
            self._nights -= 1
            if not self._nights:
                self._there = {}

    def hear(self, address: str, said: Any) -> None:
        """Something is there."""
        with self._lock:
            if self._nights:
                self._there[address] = (time.monotonic(), said)

    def forget(self, address: str) -> None:
        """It may be another now, or be gone."""
        with self._lock:
            self._there.pop(address, None)

    def of(self, address: str) -> Any:
        """What was said of it; None where it is to be asked for."""
        at, found = self._there.get(address, (0.0, None))
        return found if found and time.monotonic() - at < SECONDS else None

    def content(self, address: str) -> tuple[bytes, int] | None:
        """What was read of it, all or its last bytes, and how many there are, where it is said to be the same still."""
        if not (found := self.of(address)) or not found["e_tag"]:
            return None
        content = self._contents.get((address, found["e_tag"]))
        return None if content is None else (content, found["size"])

    def read(self, address: str, found: Any, content: bytes) -> None:
        """It is there, and this is what is in it."""
        self.hear(address, found)
        with self._lock:
            self._bytes += len(content) - len(self._contents.pop((address, found["e_tag"]), b""))
            self._contents[address, found["e_tag"]] = content
            while self._bytes > _MOST:
                self._bytes -= len(self._contents.pop(next(iter(self._contents))))

    def any_below(self, address: str) -> bool:
        """Whether something is known to be in that folder."""
        with self._lock:
            below = [each for each in self._there if each.startswith(f"{address}/")]
        return any(self.of(each) for each in below)


said = _Said()


@contextmanager
def asked_once() -> Iterator[None]:
    """What is asked inside is asked once."""
    said.begin()
    try:
        yield
    finally:
        said.end()
