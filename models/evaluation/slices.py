"""Metrics by name, `metric` or `metric/column=value`, as a document: what all queries got, and the lowest slices."""

from collections.abc import Mapping
from typing import TypedDict

SHOWN = 20
"""Slices of a column that are told: a column may have thousands of values."""


class SliceMetrics(TypedDict):
    """One value of a column."""

    value: str
    metrics: dict[str, float]


class ColumnSlices(TypedDict):
    """A column that the queries are broken down by."""

    values: int
    """How many it has."""
    lowest: list[SliceMetrics]
    """Those with the lowest recall, lowest first; no more than `SHOWN`."""


def overall(metrics: Mapping[str, float]) -> dict[str, float]:
    """What all queries got."""
    return {name: value for name, value in metrics.items() if "/" not in name}


def slices(metrics: Mapping[str, float]) -> dict[str, ColumnSlices]:
    """What the values of each column got, by the column's name."""
    columns: dict[str, dict[str, dict[str, float]]] = {}
    for name, number in metrics.items():
        metric, slash, where = name.partition("/")
        if slash:
            column, _, value = where.partition("=")
            columns.setdefault(column, {}).setdefault(value, {})[metric] = number
    return {column: _lowest(by_value) for column, by_value in columns.items()}


def _lowest(by_value: Mapping[str, dict[str, float]]) -> ColumnSlices:
    ranked = sorted(by_value.items(), key=lambda each: (_recall(each[1]), each[0]))[:SHOWN]
    return {"values": len(by_value), "lowest": [{"value": value, "metrics": own} for value, own in ranked]}


def _recall(metrics: Mapping[str, float]) -> float:
    found = [number for name, number in metrics.items() if "_recall@" in name]
    return sum(found) / len(found) if found else 1.0
