"""Two releases side by side, for a terminal."""

from collections.abc import Callable
from typing import Any

from rich.table import Table

from pairloom.flows.show.console import out, show_grid
from pairloom.flows.show.line import Line
from pairloom.flows.show.metrics_table import DIRECTIONS, Grid, value_text
from pairloom.search.answer_diff import AnswersDiff, Found, MovedAnswer
from pairloom.search.diff import Metric, ReleaseDiff, Side
from pairloom.search.row_diff import Example, RowsDiff

SLICES = 6
"""Slices that are shown: those whose metrics moved most."""
_KINDS = {
    "added": "added",
    "removed": "removed",
    "texts": "with other texts",
    "pictures": "with another picture",
    "metadata": "with other metadata",
}


def show_diff(found: ReleaseDiff) -> None:
    """All of it."""
    names = tuple(f"release {side.release}" for side in (found.before, found.after))
    _show_sides(found, names)
    _show_rows(found.rows)
    if found.settings:
        _show_pairs(("setting", *names), [(each.key, _text(each.before), _text(each.after)) for each in found.settings])
    _show_metrics(found.metrics, names)
    _show_answers(found.answers, names)


def _show_sides(found: ReleaseDiff, names: tuple[str, ...]) -> None:
    facts: dict[str, Callable[[Side], str]] = {
        "made": lambda side: f"{side.created_at:%Y-%m-%d %H:%M:%S}",
        "because": lambda side: side.reason,
        "snapshot": lambda side: str(side.snapshot),
        "model": lambda side: side.model_id,
        "measured": lambda side: side.measured_model or side.model_id,
        "trained": _trained,
        "index": lambda side: side.index or "none, exact",
        "hubness": lambda side: "taken off" if side.hubness else "not taken off",
    }
    rows = []
    for title, fact in facts.items():
        was, now = fact(found.before), fact(found.after)
        rows.append((title, was, "the same" if was == now else now))
    _show_pairs(("", *names), rows)


def _trained(side: Side) -> str:
    when = f"{side.trained_at:%Y-%m-%d %H:%M}" if side.trained_at else "unknown"
    on = f" on snapshot {side.trained_on}" if side.trained_on is not None else ""
    return f"{when}{on}{f' from {side.parent}' if side.parent else ''}"


def _show_pairs(columns: tuple[str, ...], rows: list[tuple[str, str, str]]) -> None:
    """A table of what is, and was: both columns fold where the terminal is narrow."""
    out.print()
    table = Table(box=None, header_style="bold", pad_edge=False)
    for number, title in enumerate(columns):
        table.add_column(Line(title), overflow="fold", ratio=2 if number else None)
    for row in rows:
        table.add_row(*map(Line, row))
    out.print(table)


def _show_rows(rows: RowsDiff) -> None:
    out.print()
    kinds = {title: getattr(rows, name) for name, title in _KINDS.items()}
    told = [f"{kind.count:,} {title}" for title, kind in kinds.items() if kind.count] or ["the same items"]
    out.print(Line.assemble(("rows", "bold"), f"  {rows.before:,} → {rows.after:,}: {', '.join(told)}"))
    table = Table(box=None, show_header=False, pad_edge=False)
    for options in ({"style": "dim"}, {"overflow": "fold", "max_width": 24}, {"overflow": "fold", "ratio": 1}):
        table.add_column(**options)
    for title, kind in kinds.items():
        for number, example in enumerate(kind.examples):
            said = _texts(example) if title in ("added", "removed") else _changed(example)
            table.add_row(Line("" if number else f"  {title}"), Line(example.item_id), Line(said))
    if table.rows:
        out.print(table)


def _texts(example: Example) -> str:
    """What an item says that one release lacks."""
    return "; ".join(_text(value.before if value.after is None else value.after) for value in example.values)


def _changed(example: Example) -> str:
    """What an item said and says."""
    return "; ".join(f"{value.column}: {_text(value.before)} → {_text(value.after)}" for value in example.values)


def _text(value: Any) -> str:
    if isinstance(value, list):
        return " · ".join(map(str, value))
    return "–" if value is None else str(value)


def _show_metrics(metrics: list[Metric], names: tuple[str, ...]) -> None:
    whole = [each for each in metrics if "/" not in each.name]
    slices = [each for each in metrics if "/" in each.name and "_median_rank" not in each.name and each.difference]
    slices.sort(key=lambda each: (-abs(each.difference or 0), each.name))
    for title, own in (("metric", whole), ("slices, most moved", slices[:SLICES])):
        if own:
            out.print()
            show_grid(Grid((title, *names, "difference"), tuple(map(_metric_row, own))))


def _metric_row(metric: Metric) -> tuple[str, ...]:
    cells = []
    for value, interval in ((metric.before, metric.before_interval), (metric.after, metric.after_interval)):
        known = {} if interval is None else {metric.name: interval}
        cells.append("–" if value is None else value_text(metric.name, {metric.name: value}, known))
    difference = metric.difference
    whole = "_median_rank" in metric.name
    shown = "–" if difference is None else f"{difference:+,.0f}" if whole else f"{difference:+.3f}"
    title = metric.name
    for direction, said in DIRECTIONS.items():
        if title.startswith(f"{direction}_"):
            title = f"{said} {title.removeprefix(f'{direction}_').replace('median_rank', 'median rank')}"
    return (title, *cells, shown)


def _show_answers(answers: AnswersDiff, names: tuple[str, ...]) -> None:
    out.print()
    golden = f"{answers.golden:,} golden queries and " if answers.golden else ""
    told = f"  {golden}{answers.sampled:,} texts of validation items"
    if answers.overlap is not None:
        told += (
            f": of the ten nearest {10 * answers.overlap:.1f} stay, an item moves {answers.moved:.1f} places, "
            f"{answers.unchanged:,} answers are the same"
        )
    out.print(Line.assemble(("answers", "bold"), told))
    if answers.most:
        out.print(Line("         those that moved most; * is not among the other ten:", style="dim"))
    for each in answers.most:
        _show_moved(each, names)


def _show_moved(answer: MovedAnswer, names: tuple[str, ...]) -> None:
    out.print()
    kind = "golden query" if answer.golden else "query"
    moved = answer.error or f"{10 * answer.overlap:.0f} of ten stay, {answer.moved:.1f} places"
    out.print(Line.assemble(f"{kind} ", (answer.query, "bold"), f": {moved}"))
    table = Table(box=None, header_style="dim", pad_edge=False, expand=True)
    table.add_column("", justify="right", width=2)
    for name in names:
        table.add_column(Line(name), no_wrap=True, overflow="ellipsis", ratio=1)
    known = [{each.item_id for each in own} for own in (answer.before, answer.after)]
    for place in range(max(len(answer.before), len(answer.after))):
        cells = [
            _hit(own[place], stays=own[place].item_id in there) if place < len(own) else Line("")
            for own, there in zip((answer.before, answer.after), reversed(known), strict=True)
        ]
        table.add_row(str(place + 1), *cells)
    out.print(table)


def _hit(found: Found, *, stays: bool) -> Line:
    """An item among the nearest; marked where the other release has it not among them."""
    return Line(f"{' ' if stays else '*'} {found.item_id}  {found.text}", style="" if stays else "yellow")
