"""What the parts of one statement share: the release, the database that answers, the clock, what the caller lends."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import count
from typing import Any

from pairloom.search.release import OpenRelease
from pairloom.search.sql.attached import Attached
from pairloom.search.sql.items import register_items
from pairloom.storage.sealed import Deadline, sealed_connection


@dataclass(frozen=True)
class Session:
    """One statement's."""

    release: OpenRelease
    connection: Any
    deadline: Deadline
    attached: Attached
    registered: set[str] = field(default_factory=set)
    numbers: Iterator[int] = field(default_factory=count)

    @classmethod
    @contextlib.contextmanager
    def opened(cls, release: OpenRelease, attached: Attached, seconds: float) -> "Iterator[Session]":
        """A database that reads and writes nothing but what is registered with it, until the end."""
        with contextlib.closing(sealed_connection(errors_as_json="true")) as connection:
            yield cls(release, connection, Deadline(seconds), attached)

    def register(self, name: str, rows: Any) -> None:
        """Have the statement know Arrow data, or the items of an open release, by a name."""
        if name in self.registered:
            return
        self.registered.add(name)
        if isinstance(rows, OpenRelease):
            register_items(self.connection, name, rows)
        else:
            self.connection.register(name, rows)
