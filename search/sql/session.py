"""What the parts of one statement share: the release, the database that answers, the clock, what the caller lends."""

import atexit
import contextlib
import weakref
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import count
from typing import Any, Self

from pairloom.search.release import OpenRelease
from pairloom.search.sql.attached import Attached
from pairloom.search.sql.items import register_items
from pairloom.storage.sealed import Deadline, sealed_connection

MAX_IDLE = 4
"""Databases that wait for the next statements of a release: opening one costs as much as counting a million rows."""
ITEMS = "items"
_OPEN: "weakref.WeakSet[Database]" = weakref.WeakSet()


class Database:
    """A database that reads and writes nothing but what is registered with it, for one statement after the other.

    It knows the session that it works for; idle it knows none, and so holds no release.
    """

    def __init__(self) -> None:
        self.connection: Any = sealed_connection(errors_as_json="true")
        self.session: Session | None = None
        self.has_functions = False
        self.has_items = False
        if not _OPEN:
            atexit.register(_close_all)
        _OPEN.add(self)

    @property
    def busy(self) -> "Session":
        """The session that it works for."""
        assert self.session is not None
        return self.session


def _close_all() -> None:
    # DuckDB complains of what is still open when the interpreter ends.
    for database in _OPEN:
        database.connection.close()


@dataclass
class Session:
    """One statement's."""

    release: OpenRelease
    database: Database
    deadline: Deadline
    attached: Attached
    ended: bool = False
    """Whether the statement was read to its end."""
    registered: set[str] = field(default_factory=set)
    views: set[str] = field(default_factory=set)
    embedded: dict[Any, dict[Any, Any]] = field(default_factory=dict)
    """What each embedding function has computed."""
    numbers: Iterator[int] = field(default_factory=count)

    @classmethod
    @contextlib.contextmanager
    def opened(cls, release: OpenRelease, attached: Attached, seconds: float) -> Iterator[Self]:
        """A session with a database of its own; one that ended as it should leaves that to the next."""
        database = release.idle_databases.pop() if release.idle_databases else Database()
        session = cls(release, database, Deadline(seconds), attached)
        database.session = session
        try:
            yield session
            if session.ended and len(release.idle_databases) < MAX_IDLE:
                session._clear()
                database.session = None
                release.idle_databases.append(database)
        finally:
            if database.session is not None:
                database.session = None
                database.connection.close()

    @property
    def connection(self) -> Any:
        """DuckDB's."""
        return self.database.connection

    def register(self, name: str, rows: Any) -> None:
        """Have the statement know Arrow data, or the items of an open release, by a name."""
        if name in self.registered or name in self.views or (name == ITEMS and self.database.has_items):
            return
        if isinstance(rows, OpenRelease):
            register_items(self.connection, name, rows)
            self.views.add(name)
        else:
            self.connection.register(name, rows)
            self.registered.add(name)
        self.database.has_items |= name == ITEMS

    def _clear(self) -> None:
        """Leave nothing behind that the statement named, but for the items, which are the release's."""
        for name in self.registered:
            self.connection.unregister(name)
        for name in self.views - {ITEMS}:
            self.connection.execute(f'DROP VIEW "{name}"')
