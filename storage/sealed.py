"""DuckDB as far as strangers' SQL may use it: no file, no network, no setting, nothing that outlives its time."""

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from queue import Empty, SimpleQueue
from typing import Any, TypeVar

MAX_SECONDS = 120.0
"""What one statement or condition may take."""
MEMORY_LIMIT = "4GB"

R = TypeVar("R")


def sealed_connection(**settings: str) -> Any:
    """An empty database in memory that reads and writes nothing but what is registered with it."""
    # Who only searches waits for no DuckDB.
    import duckdb

    connection = duckdb.connect(
        ":memory:",
        config={
            "enable_external_access": "false",
            # Else it spills into `.tmp` of the working directory, up to 90 % of the disk.
            "temp_directory": "",
            "memory_limit": MEMORY_LIMIT,
            "allow_community_extensions": "false",
            "allow_persistent_secrets": "false",
            "autoinstall_known_extensions": "false",
            "autoload_known_extensions": "false",
            # Without this, a name in a statement that is no table would be looked up among our Python variables.
            "python_enable_replacements": "false",
            **settings,
        },
    )
    # A date without a zone means the same on every machine.
    connection.execute("SET TimeZone = 'UTC'")
    connection.execute("SET lock_configuration = true")
    return connection


class OverdueError(ValueError):
    """Something took longer than it may."""


class Deadline:
    """A moment that work must not pass."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._end = time.monotonic() + seconds

    @property
    def passed(self) -> bool:
        """Whether it is over."""
        return time.monotonic() >= self._end

    def check(self) -> None:
        """Raises ValueError once it is over."""
        if self.passed:
            raise self.error()

    def error(self) -> "OverdueError":
        """What to raise."""
        return OverdueError(f"it took longer than {self.seconds:g} seconds")

    @contextlib.contextmanager
    def interrupts(self, connection: Any) -> Iterator[None]:
        """Statements of `connection` inside end by it; ValueError then, whatever DuckDB calls it."""
        import duckdb

        timer = threading.Timer(self._end - time.monotonic(), connection.interrupt)
        timer.daemon = True  # nobody waits for it at the end
        timer.start()
        try:
            yield
        except (duckdb.Error, OSError) as error:
            if self.passed or isinstance(error, duckdb.InterruptException):
                raise self.error() from error
            raise
        finally:
            timer.cancel()


def in_time(function: Callable[[], R], seconds: float) -> R:
    """What `function` returns or raises; ValueError where that takes longer.

    For calls into libraries that can't be interrupted: what is too slow is left behind in its thread.
    """
    answers: SimpleQueue[tuple[R | None, BaseException | None]] = SimpleQueue()

    def run() -> None:
        try:
            answers.put((function(), None))
        except BaseException as error:  # raised again where it is waited for
            answers.put((None, error))

    threading.Thread(target=run, name="in time", daemon=True).start()
    try:
        found, error = answers.get(timeout=seconds)
    except Empty:
        raise Deadline(seconds).error() from None
    if error:
        raise error
    return found  # type: ignore[return-value]  # without an error it is what the function returned
