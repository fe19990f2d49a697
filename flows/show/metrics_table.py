"""Metrics as people read them: a row a measure, a column a direction, each value with its interval."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

Intervals = Mapping[str, Sequence[float]]

DIRECTIONS = {"text_to_image": "text → image", "image_to_text": "image → text", "image_to_image": "image → image"}

CLASSIFIERS = {"logistic": "logistic", "svm": "linear SVM", "knn": "5 nearest"}


@dataclass(frozen=True)
class Grid:
    """A table of text."""

    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def metrics_grid(metrics: Mapping[str, float], intervals: Intervals) -> Grid:
    """What all queries got, recall by rising k first; directions that weren't measured are left out."""
    cells: dict[str, dict[str, str]] = {}
    for direction in DIRECTIONS:
        for name in metrics:
            if name.startswith(f"{direction}_") and "/" not in name:
                measure = name.removeprefix(f"{direction}_")
                cells.setdefault(measure, {})[direction] = value_text(name, metrics, intervals)
    found = [direction for direction in DIRECTIONS if any(direction in row for row in cells.values())]
    rows = tuple(
        (
            measure.replace("corrected_recall", "corrected").replace("_", " "),
            *(cells[measure].get(direction, "–") for direction in found),
        )
        for measure in sorted(cells, key=_place)
    )
    return Grid(("metric", *(DIRECTIONS[direction] for direction in found)), rows)


def probes_grid(metrics: Mapping[str, float], intervals: Intervals) -> Grid:
    """Accuracy of each classifier (columns) on each column of the items (rows)."""
    cells: dict[str, dict[str, str]] = {}
    for name in metrics:
        column, _, classifier = name.removeprefix("probe_").rpartition("_")
        if name.startswith("probe_") and classifier in CLASSIFIERS:
            cells.setdefault(column, {})[classifier] = value_text(name, metrics, intervals)
    rows = tuple((column, *(own.get(each, "–") for each in CLASSIFIERS)) for column, own in cells.items())
    return Grid(("probe", *CLASSIFIERS.values()), rows)


def slices_grid(metrics: Mapping[str, float], *, limit: int) -> Grid:
    """Recall at 10, or the largest k there is, of the `limit` slices with the lowest mean of both directions."""
    measured = sorted({int(name.partition("/")[0].rpartition("@")[2]) for name in metrics if "_recall@" in name})
    k = 10 if 10 in measured else max(measured, default=0)
    directions = list(DIRECTIONS)[:2]
    found: dict[str, dict[str, float]] = {}
    for name, value in metrics.items():
        metric, slash, where = name.partition("/")
        direction, _, at = metric.partition("_recall@")
        if slash and at == str(k) and direction in directions:
            found.setdefault(where, {})[direction] = value
    lowest = sorted(found.items(), key=lambda each: (sum(each[1].values()) / len(each[1]), each[0]))[:limit]
    rows = tuple((where, *(_number(values.get(direction)) for direction in directions)) for where, values in lowest)
    title = f"recall@{k}" + (f", lowest {limit} of {len(found)} slices" if len(found) > limit else ", slices")
    return Grid((title, *(DIRECTIONS[direction] for direction in directions)), rows)


def value_text(name: str, metrics: Mapping[str, float], intervals: Intervals) -> str:
    """A value and, where it is known, its interval: `0.512 (0.481–0.543)`, whole numbers for a rank."""
    show = (lambda value: f"{value:,.0f}") if "_median_rank" in name else _number
    if name not in intervals:
        return show(metrics[name])
    low, high = intervals[name]
    return f"{show(metrics[name])} ({show(low)}–{show(high)})"


def _place(measure: str) -> tuple[int, int, str]:
    name, _, k = measure.partition("@")
    order = ("recall", "map", "ndcg").index(name) if name in ("recall", "map", "ndcg") else 3
    return order, int(k) if k.isdigit() else 0, measure


def _number(value: float | None) -> str:
    return "–" if value is None or value != value else f"{value:.3f}"
