"""Dates in the paths of sources: which files are those of a day."""

import re
from datetime import date, datetime, timedelta
from pathlib import Path

_PLACE = re.compile(r"\{(date|until)(-\d{1,4})?(?::([^{}]*))?\}")
_DIRECTIVES = {"Y": r"\d{4}", "m": r"\d{2}", "d": r"\d{2}", "y": r"\d{2}", "j": r"\d{3}", "G": r"\d{4}", "V": r"\d{2}"}
_GLOBS = {"**/": r"(?:[^/]+/)*", "**": r".*", "*": r"[^/]*", "?": r"[^/]"}
ISO = "%Y-%m-%d"


def is_dated(path: Path) -> bool:
    """Whether a path holds `{date}` or `{until}`, and nothing of that very name exists."""
    return _PLACE.search(str(path)) is not None and not path.exists()


def undated(path: Path) -> Path:
    """The path with `{date}` for whatever stands for a date in it: the same on every day."""
    return Path(_PLACE.sub("{date}", str(path)))


def check_dates(path: Path) -> Path:
    """The path. Raises ValueError where its dates mean nothing."""
    places = [*_PLACE.finditer(str(path))]
    for place in places:
        form = place[3] if place[3] is not None else ISO
        odd = [each for each in re.findall(r"%(.?)", form) if each not in _DIRECTIVES]
        if odd or "%" not in form:
            known = " ".join(f"%{each}" for each in _DIRECTIVES)
            raise ValueError(f"{place[0]} is no date: write it with {known}, like {{date:%Y/%m/%d}}")
    if len(places) > 1 and any(place[1] == "until" for place in places):
        raise ValueError(f"{path}: {{until}} stands for all of a path's date: there can be no other date beside it")
    if "[" in str(path) and any(place[1] == "until" for place in places):
        raise ValueError(f"{path}: beside {{until}} a path may hold `*` and `?`, and no `[`")
    return path


def on_day(path: Path, day: date) -> list[Path]:
    """What a path names on a day: `{date}` is that day, `{until}` every day up to it that there is a file of.

    The first may be a pattern. Nothing need be there: where no day has a file, it is the path as it is written.
    """
    if not is_dated(path):
        return [path]
    place = _PLACE.search(str(path))
    assert place is not None
    if place[1] == "date":
        return [Path(_PLACE.sub(lambda each: _moved(day, each).strftime(each[3] or ISO), str(path)))]
    last, form = _moved(day, place), place[3] or ISO
    before, after = str(path)[: place.start()], str(path)[place.end() :]
    above = next(each for each in Path(before + "x").parents if each.exists() or each == each.parent)
    named = re.compile(f"{_regex(before)}({_date_regex(form)}){_regex(after)}")
    pattern = Path(before + re.sub(r"%.", "*", form) + after).relative_to(above)
    found = sorted(
        (written, each)
        for each in above.glob(str(pattern))
        if (match := named.fullmatch(str(each))) and (written := _read(match[1], form)) and written <= last
    )
    return [each for _, each in found] or [path]


def _moved(day: date, place: re.Match[str]) -> date:
    return day + timedelta(days=int(place[2] or 0))


def _read(text: str, form: str) -> date | None:
    """The date that a text says in a form: the first day of a month or week where it says no more."""
    weekly = "%G" in form
    try:
        return datetime.strptime(f"{text} 1" if weekly else text, f"{form} %u" if weekly else form).date()
    except ValueError:
        return None


def _date_regex(form: str) -> str:
    return re.sub(r"%(.)|([^%]+)", lambda part: _DIRECTIVES[part[1]] if part[1] else re.escape(part[2]), form)


def _regex(pattern: str) -> str:
    parts = re.split(r"(\*\*/|\*\*|\*|\?)", pattern)
    return "".join(_GLOBS.get(part, re.escape(part)) for part in parts)
