"""What the page's answers come from: the newest release, older ones that people compare with, and what was uploaded."""

import logging
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Generic, TypeVar

from pairloom.search.index import Index
from pairloom.search.web.config import WebConfig
from pairloom.search.web.served import ServedRelease
from pairloom.storage.files import DamagedError, damage
from pairloom.storage.sources.config import SourceConfig

logger = logging.getLogger(__name__)

OLDER = 4
"""Older releases that are held open."""

V = TypeVar("V")


class NoReleaseError(RuntimeError):
    """There is nothing to serve yet."""


class Latest(Generic[V]):
    """The values that were asked for last, at most `most` of them, each made once however many threads ask for it."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._values: OrderedDict[Hashable, V] = OrderedDict()
        self._making: dict[Hashable, threading.Lock] = {}
        self._state = threading.Lock()

    def get(self, key: Hashable, make: Callable[[], V]) -> V:
        """The value of a key, made where it isn't known. Raises what `make` raises, and remembers nothing then."""
        with self._state:
            if key in self._values:
                self._values.move_to_end(key)
                return self._values[key]
            own = self._making.setdefault(key, threading.Lock())
        with own:
            with self._state:
                if key in self._values:
                    return self._values[key]
            try:
                value = make()
                self.put(key, value)
            finally:
                with self._state:
                    self._making.pop(key, None)
        return value

    def put(self, key: Hashable, value: V) -> None:
        """Remember a value."""
        with self._state:
            self._values[key] = value
            self._values.move_to_end(key)
            while len(self._values) > self._most:
                self._values.popitem(last=False)

    def known(self, key: Hashable) -> V | None:
        """The value of a key, where it is known."""
        with self._state:
            return self._values.get(key)


class Service:
    """The releases of one pipeline, for any number of threads."""

    def __init__(
        self, folder: Path, config: WebConfig, *, number: int | None = None, sources: Sequence[SourceConfig] = ()
    ) -> None:
        """Nothing is opened yet. `number` stays at that release; `sources` is where pictures of rejected rows are."""
        self.folder = folder
        self.config = config
        self.sources = sources
        self._number = number
        self._index: Index | None = None
        self._older: Latest[ServedRelease] = Latest(OLDER)
        self._opening = threading.Lock()
        self._ended = threading.Event()
        self.caches: dict[str, Latest[Any]] = {}
        self.ahead: list[Callable[[ServedRelease], object]] = []
        """What is done for a release before anybody asks for it."""

    def cache(self, name: str, most: int) -> Latest[Any]:
        """A named store of what was worked out; keys name the release they are of."""
        return self.caches.setdefault(name, Latest(most))

    @contextmanager
    def reading(self, number: int | None = None) -> Iterator[ServedRelease]:
        """The release that one answer is of: the newest one, or release `number`.

        Raises NoReleaseError where nothing was released yet, LookupError where there is no such release, DamagedError
        where one is not whole, in the block too.
        """
        release = self._open(number)
        try:
            yield release
        except (ValueError, RuntimeError, OSError) as error:
            wrong = damage(release.folder, release.record.needed)
            if not wrong:
                raise
            raise DamagedError(f"release {release.record.number} is no longer whole: {'; '.join(wrong[:3])}") from error

    def start(self) -> None:
        """Look for newer releases from now on, and load what the first text needs."""
        threading.Thread(target=self._follow, name="follow releases", daemon=True).start()

    def end(self) -> None:
        """Look no more."""
        self._ended.set()

    def _follow(self) -> None:
        prepared = wrong = ""
        while not self._ended.is_set():
            try:
                if self._index is not None and self._number is None:
                    self._index.refresh()
                with self.reading() as release:
                    if release.key != prepared:
                        release.embed_texts(["warm"])
                        for prepare in self.ahead:
                            prepare(release)
                        prepared = release.key
                wrong = ""
            except Exception as error:  # whoever asks is told; the next look may find better
                if wrong != str(error):
                    wrong = str(error)
                    logger.warning("%s", error)
            self._ended.wait(self.config.refresh_seconds)

    def _open(self, number: int | None) -> ServedRelease:
        newest = self._newest()
        if number is None or number == newest.record.number:
            return newest
        return self._older.get(number, lambda: self._older_release(number, newest))

    def _newest(self) -> ServedRelease:
        with self._opening:
            if self._index is None:
                try:
                    self._index = Index(ServedRelease.open(self.folder, self._number), pinned=self._number is not None)
                except DamagedError:
                    raise
                except ValueError as error:
                    raise NoReleaseError(str(error)) from error
            release = self._index.current
        assert isinstance(release, ServedRelease)
        return release

    def _older_release(self, number: int, newest: ServedRelease) -> ServedRelease:
        try:
            opened = ServedRelease.open(self.folder, number)
        except DamagedError:
            raise
        except ValueError as error:
            raise LookupError(str(error)) from error
        # A model that stayed isn't loaded twice.
        return ServedRelease(self.folder, opened.record, newest.model) if newest.model.is_of(opened.record) else opened
