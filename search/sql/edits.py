"""A statement with pieces of it replaced, which still knows where in the original each place stands."""

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, order=True)
class Edit:
    """Bytes `start` to `end` of the original become `new`."""

    start: int
    end: int
    new: str


class Edited:
    """A text after some edits that don't overlap. Places are bytes of UTF-8, as DuckDB counts."""

    def __init__(self, original: str, edits: Iterable[Edit]) -> None:
        self._edits = sorted(edits)
        source, pieces, at = original.encode(), [], 0
        for edit in self._edits:
            pieces += [source[at : edit.start], edit.new.encode()]
            at = edit.end
        self.text = b"".join([*pieces, source[at:]]).decode()

    def original(self, place: int) -> int:
        """Where in the original a place of the edited text was; of what is new, where it begins."""
        moved = 0
        for edit in self._edits:
            length = len(edit.new.encode())
            if place < edit.start + moved:
                break
            if place < edit.start + moved + length:
                return edit.start
            moved += length - (edit.end - edit.start)
        return place - moved


def line_and_column(text: str, place: int) -> tuple[int, int]:
    """A place counted from 1, the columns in characters."""
    before = text.encode()[:place].decode(errors="ignore")
    return before.count("\n") + 1, len(before) - before.rfind("\n")
