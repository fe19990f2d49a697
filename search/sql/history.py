"""Tables about releases: `releases`, `metrics`, and the items of another release, `items_at(N)`."""

import pyarrow as pa

from pairloom.search.release import OpenRelease
from pairloom.search.sql.arguments import Arguments, TableFunction
from pairloom.search.sql.session import Session
from pairloom.storage.releases import release_log

_TIME = pa.timestamp("us", tz="UTC")
RELEASES = pa.schema(
    [
        pa.field("release", pa.int64()),
        pa.field("created_at", _TIME),
        pa.field("model_id", pa.string()),
        pa.field("trained_at", _TIME),
        pa.field("snapshot", pa.int64()),
        pa.field("rows", pa.int64()),
        pa.field("dimension", pa.int64()),
        pa.field("index", pa.string()),
        pa.field("reason", pa.string()),
        pa.field("rolled_back_to", pa.int64()),
        pa.field("asked", pa.bool_()),
    ]
)
"""`asked`: the release that the statement is answered from."""
METRICS = pa.schema(
    [
        pa.field("release", pa.int64()),
        pa.field("metric", pa.string()),
        pa.field("slice", pa.string()),
        pa.field("value", pa.float64()),
        pa.field("low", pa.float64()),
        pa.field("high", pa.float64()),
    ]
)
"""`slice`: `column=value`, null for all items. `low`, `high`: the ends of the interval, where one was measured."""


def releases(session: Session) -> pa.Table:
    """The releases whose records stand, newest first."""
    rows = [
        {
            **release.model_dump(include=set(RELEASES.names)),
            "release": release.number,
            "trained_at": release.training.trained_at,
            "asked": release.number == session.release.record.number,
        }
        for release in release_log(session.release.folder).newest_first()
    ]
    return pa.Table.from_pylist(rows, RELEASES)


def metrics(session: Session) -> pa.Table:
    """What each of them was measured with, a row a metric."""
    rows = []
    for release in release_log(session.release.folder).newest_first():
        for name, value in release.metrics.items():
            metric, _, where = name.partition("/")
            low, high = release.intervals.get(name, (None, None))
            told = (release.number, metric, where or None, value, low, high)
            rows.append(dict(zip(METRICS.names, told, strict=True)))
    return pa.Table.from_pylist(rows, METRICS)


def _items_at(session: Session, given: Arguments) -> OpenRelease:
    return OpenRelease.open(session.release.folder, given.whole("release", session.release.record.number))


HISTORY = (TableFunction("items_at", ("release",), "items_at(3)", _items_at),)
