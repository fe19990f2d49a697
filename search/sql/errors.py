"""What is wrong with a statement, in one line, with its place."""

import json
import logging
import re
from typing import Any

logger = logging.getLogger(__name__)

HINT = "the table is `items`; search('text', k := 10) is a table, similarity(image_vector, 'text') a value"
_LONGEST = 600
_KIND = re.compile(r"[A-Z][A-Za-z ]* Error: ")
_OURS = re.compile(r"Python exception occurred while executing the UDF: \w+: ", re.DOTALL)


class PlacedError(ValueError):
    """A message, the byte of the statement that it is about, and what may help."""

    def __init__(self, message: str, place: int | None = None, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.place = place
        self.hint = hint

    def moved(self, by: int) -> "PlacedError":
        """The same of a statement that begins so many bytes later."""
        return PlacedError(self.message, None if self.place is None else max(self.place + by, 0), self.hint)


class StatementError(ValueError):
    """What people read of an error, and where in the statement that they wrote it is, where that is known."""

    def __init__(self, message: str, line: int | None = None, column: int | None = None) -> None:
        super().__init__(message)
        self.line = line
        self.column = column


def placed(error: Exception) -> PlacedError:
    """An error of DuckDB, whose connections here say errors as JSON, with its place in the text that DuckDB got."""
    text = str(error)
    found = re.search(r"\{.*\}", text, re.DOTALL)
    try:
        told = json.loads(found.group()) if found else {}
        message, place = str(told["exception_message"]), str(told.get("position"))
    except (ValueError, KeyError, RecursionError):
        message, place = _KIND.sub("", text), ""
    kind = "Out of Memory: " if type(error).__name__ == "OutOfMemoryException" else ""
    return PlacedError(kind + one_line(message), int(place) if place.isdigit() else None, HINT)


def placed_binding(connection: Any, sql: str, error: Exception) -> PlacedError:
    """The same of a statement that DuckDB couldn't bind: its relations tell no place, its plain execution does."""
    prefix = "" if sql.lstrip().lower().startswith("explain") else "EXPLAIN "
    try:
        connection.execute(prefix + sql)
    except type(error) as again:
        return placed(again).moved(-len(prefix))
    except Exception:  # what else goes wrong says nothing about the statement
        logger.debug("no place is known", exc_info=True)
    return placed(error)


def one_line(message: str) -> str:
    """What people need of a message: its first line, and what DuckDB thinks was meant."""
    ours = _OURS.search(message)
    lines = (message[ours.end() :] if ours else message).strip().splitlines() or [""]
    meant = [line.strip() for line in lines[1:] if line.startswith(("Did you mean", "Candidate bindings"))]
    return " ".join([lines[0], *meant])[:_LONGEST]
