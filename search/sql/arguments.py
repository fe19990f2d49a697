"""Table functions of a statement, and what a call gives them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from pairloom.search.sql.limits import checked_text
from pairloom.search.sql.session import Session


@dataclass(frozen=True)
class TableFunction:
    """A function that stands where a table may."""

    name: str
    parameters: tuple[str, ...]
    """In the order in which they may be given without their names."""
    usage: str
    rows: "Callable[[Session, Arguments], Any]"
    """What it gives: Arrow data, or an open release for its items."""


@dataclass(frozen=True)
class Arguments:
    """The values of one call, by parameter."""

    function: TableFunction
    values: Mapping[str, Any]

    def any_of(self, name: str, *kinds: type) -> Any:
        """A value that must be given, of one of some types."""
        value = self.values.get(name)
        if not isinstance(value, kinds) or isinstance(value, bool):
            said = "nothing" if value is None else repr(value)[:60]
            raise ValueError(f"{self.function.name}: its {name} is {said}; write {self.function.usage}")
        return checked_text(value) if isinstance(value, str) else value

    def text_or_none(self, name: str) -> str | None:
        """A text, or None where none is given."""
        return None if self.values.get(name) is None else str(self.any_of(name, str))

    def whole(self, name: str, default: int) -> int:
        """A whole number."""
        value = self.number(name, default)
        if value != int(value):
            raise ValueError(f"{self.function.name}: its {name} is {value}, must be a whole number")
        return int(value)

    def number(self, name: str, default: float) -> float:
        """A finite number."""
        from decimal import Decimal

        value = default if self.values.get(name) is None else float(self.any_of(name, int, float, Decimal))
        if value != value or value in (float("inf"), float("-inf")):
            raise ValueError(f"{self.function.name}: its {name} is {value}, must be finite")
        return value
