"""What people chose among an item's facets, as it stands in an address and as a condition on the table."""

import datetime
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from pairloom.search.web.served import ServedRelease

PREFIX = "f."
"""`f.colour=red`: only items whose colour is red; given twice, of either value."""
MAX_CHOSEN = 40
RANGE = ".."
_FIXED = {"group": "string", "split": "string", "source": "string", "width": "int64", "height": "int64"}


@dataclass(frozen=True)
class Choice:
    """Values of one column, any of which an item may have; of a number or a time, one range."""

    column: str
    kind: str
    values: tuple[str, ...]

    @property
    def is_range(self) -> bool:
        """Whether the values are ranges, `10..20`, `10..` or `..20`, both ends included."""
        return self.kind in ("int64", "float64", "timestamp")

    @property
    def ends(self) -> tuple[str | None, str | None]:
        """The two ends of a range. ValueError where it is none."""
        low, dots, high = self.values[-1].partition(RANGE)
        ends = (low.strip() or None, (high if dots else low).strip() or None)
        for end in ends:
            if end is not None:
                _number(end, self)
        return ends

    @property
    def condition(self) -> str:
        """What Lance and `--where` take. Values are strangers' text, and quoted."""
        name = '"' + self.column.replace('"', '""') + '"'
        if self.is_range:
            low, high = (None if end is None else _literal(end, self) for end in self.ends)
            bounds = [f"{name} >= {low}" if low else "", f"{name} <= {high}" if high else ""]
            if self.kind == "float64" and high is None:
                # Lance has NaN above all numbers, and no index that knows it.
                bounds.append(f"NOT isnan({name})")
            return " AND ".join(filter(None, bounds)) or f"{name} IS NOT NULL"
        if self.kind == "list<string>":
            return " OR ".join(f"array_has({name}, {_quoted(value)})" for value in self.values)
        own = [value for value in self.values if value]
        parts = [f"{name} IS NULL"] if len(own) < len(self.values) else []
        if own and self.kind == "bool":
            parts += [name if value == "true" else f"NOT {name}" for value in own]
        elif own:
            parts.append(f"{name} IN ({', '.join(map(_quoted, own))})")
        return " OR ".join(parts)


def facet_columns(release: ServedRelease) -> dict[str, str]:
    """The columns that may be chosen by, with their types."""
    return {**release.record.keep, **_FIXED}


def chosen(release: ServedRelease, parameters: Iterable[tuple[str, str]]) -> tuple[Choice, ...]:
    """What an address chooses. ValueError for an unknown column and for a value that is none of it."""
    kinds, found = facet_columns(release), dict[str, list[str]]()
    for name, value in parameters:
        if name.startswith(PREFIX):
            found.setdefault(name.removeprefix(PREFIX), []).append(value)
    if sum(map(len, found.values())) > MAX_CHOSEN:
        raise ValueError(f"more than {MAX_CHOSEN} values are chosen")
    choices = []
    for column, values in found.items():
        if column not in kinds:
            raise ValueError(f"release {release.record.number} has no facet {column[:100]!r}: {', '.join(kinds)}")
        choice = Choice(column, kinds[column], tuple(dict.fromkeys(values)))
        if choice.kind == "bool" and not {*choice.values} <= {"true", "false", ""}:
            raise ValueError(f"{column} is true or false, not {choice.values[0][:100]!r}")
        choice.condition  # noqa: B018  # a range that is none is told now
        choices.append(choice)
    return tuple(sorted(choices, key=lambda each: each.column))


def condition(choices: Iterable[Choice], where: str | None = None) -> str | None:
    """All that must hold, as one condition; None where nothing must."""
    parts = [f"({each.condition})" for each in choices]
    if where is not None and where.strip():
        parts.append(f"({where})" if parts else where)
    return " AND ".join(parts) or None


def parameters(query: Mapping[str, str] | Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    """The pairs of an address that choose facets."""
    pairs = query.items() if isinstance(query, Mapping) else query
    return [(name, value) for name, value in pairs if name.startswith(PREFIX)]


def _quoted(value: str) -> str:
    return "'" + value.replace("'", "''") + "'"


def _number(value: str, choice: Choice) -> float:
    try:
        if choice.kind == "timestamp":
            return _time(value).timestamp()
        return float(int(value)) if choice.kind == "int64" else float(value)
    except (ValueError, OverflowError) as error:
        wanted = "a time such as 2026-11-30" if choice.kind == "timestamp" else "a number"
        raise ValueError(f"{choice.column} takes {wanted} or a range of them, not {value[:100]!r}") from error


def _literal(value: str, choice: Choice) -> str:
    if choice.kind == "timestamp":
        return f"to_timestamp('{_time(value).astimezone(datetime.UTC).strftime('%Y-%m-%dT%H:%M:%S')}')"
    number = _number(value, choice)
    if number != number or number in (float("inf"), float("-inf")):
        raise ValueError(f"{choice.column} takes a number, not {value[:100]!r}")
    return str(int(value)) if choice.kind == "int64" else repr(number)


def _time(value: str) -> datetime.datetime:
    time = datetime.datetime.fromisoformat(value)
    return time if time.tzinfo else time.replace(tzinfo=datetime.UTC)
