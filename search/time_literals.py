"""Times in filters: a quoted time beside a column of times becomes the literal that Lance compares with it."""

import re
from collections.abc import Collection
from datetime import UTC, datetime

_PIECE = re.compile(r"'(?:[^']|'')*'|\"(?:[^\"]|\"\")*\"|`[^`]*`|[^\W\d]\w*|<=|>=|<>|!=|==|[<>=(),]|\S", re.UNICODE)
_COMPARISONS = frozenset(("<", "<=", ">", ">=", "=", "==", "!=", "<>"))
_TYPES = (["timestamp", "with", "time", "zone"], ["timestamptz"], ["timestamp"])


def with_times(where: str, times: Collection[str]) -> str:
    """`where` with its times written as Lance takes them, where `times` are the names of columns of times.

    `seen > '2026-11-02'`, `seen BETWEEN '2026-11-02 10:00' AND '2026-11-03T10:00:00+02:00'`, `seen IN ('2026-11-02')`
    and `timestamptz '…'` alike; one without a zone is UTC. What isn't a time in ISO 8601 stays as it is.
    """
    found = list(_PIECE.finditer(where))
    pieces = [each.group().lower() for each in found]
    columns = {name.lower() for name in times}
    text, done, listed = "", 0, False
    for at, piece in enumerate(pieces):
        if piece in ("(", ")"):
            listed = piece == "(" and pieces[at - 1 : at] == ["in"] and _subject(pieces, at - 1, columns)
        if not piece.startswith("'"):
            continue
        typed = _type_before(pieces, at)
        if not (typed or listed or _compared(pieces, at, columns)):
            continue
        if (moment := _moment(found[at].group()[1:-1])) is not None:
            text += where[done : found[at - typed].start()] + f"timestamp '{moment}'"
            done = found[at].end()
    return text + where[done:]


def _type_before(pieces: list[str], at: int) -> int:
    """How many words before place `at` say that a time follows."""
    return next((len(words) for words in _TYPES if pieces[max(at - len(words), 0) : at] == words), 0)


def _compared(pieces: list[str], at: int, columns: set[str]) -> bool:
    """Whether the literal at a place is compared with one of the columns."""
    if pieces[at + 1 : at + 2] and pieces[at + 1] in _COMPARISONS and pieces[at + 2 : at + 3]:
        return _is_column(pieces[at + 2], columns)
    if at and pieces[at - 1] in _COMPARISONS:
        return _subject(pieces, at - 1, columns)
    if at > 2 and pieces[at - 1] == "and" and pieces[at - 2].startswith("'"):
        at -= 2
        at -= _type_before(pieces, at)
    return at > 0 and pieces[at - 1] == "between" and _subject(pieces, at - 1, columns)


def _subject(pieces: list[str], at: int, columns: set[str]) -> bool:
    """Whether the operator at a place is one of these columns', negated or not."""
    before = at - 1 - (pieces[at - 1 : at] == ["not"])
    return before >= 0 and _is_column(pieces[before], columns)


def _is_column(piece: str, columns: set[str]) -> bool:
    name = piece[1:-1] if piece[0] in '"`' else piece
    return name in columns


def _moment(text: str) -> str | None:
    """A time in ISO 8601, in UTC, as Lance reads it; None where it is none."""
    try:
        moment = datetime.fromisoformat(text.strip())
        moment = moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    except (ValueError, OverflowError):
        return None
    return f"{moment:%Y-%m-%d %H:%M:%S.%f}".rjust(26, "0")
