"""Which rows two releases differ in, with examples."""

from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from pydantic import BaseModel

from pairloom.search.release import OpenRelease
from pairloom.storage.changes import changes
from pairloom.storage.corpus import Corpus, Snapshot
from pairloom.storage.files import DamagedError
from pairloom.storage.plain_values import json_value

EXAMPLES = 3
"""Items that are shown of each kind of change."""
_METADATA = ("group", "split", "path", "width", "height", "source")


class Value(BaseModel, frozen=True, extra="forbid"):
    """What one column of an item said, and says."""

    column: str
    before: Any
    after: Any


class Example(BaseModel, frozen=True, extra="forbid"):
    """One item that differs; a new one has no `before`, a removed one no `after`."""

    item_id: str
    values: list[Value]


class Kind(BaseModel, frozen=True, extra="forbid"):
    """Items that differ in one way."""

    count: int
    examples: list[Example]


class RowsDiff(BaseModel, frozen=True, extra="forbid"):
    """Items of both releases. One of which texts and price changed counts as `texts` and as `metadata`."""

    before: int
    after: int
    added: Kind
    removed: Kind
    texts: Kind
    pictures: Kind
    metadata: Kind


def compare_rows(before: OpenRelease, after: OpenRelease) -> RowsDiff:
    """What the snapshot of `after` has otherwise than that of `before`, in what it costs to read what differs.

    Raises DamagedError where a snapshot is not the one that was released, or not whole.
    """
    corpus = Corpus(before.folder)
    found = changes(corpus, _snapshot(corpus, before), _snapshot(corpus, after))
    kept = dict.fromkeys([*_METADATA, *before.record.keep, *after.record.keep])

    def kind(ids: pa.StringArray, columns: Sequence[str]) -> Kind:
        some = sorted(ids.to_pylist())[:EXAMPLES]
        return Kind(count=len(ids), examples=_examples(before, after, some, columns))

    return RowsDiff(
        before=before.record.rows,
        after=after.record.rows,
        added=kind(found.new, ["texts"]),
        removed=kind(found.removed, ["texts"]),
        texts=kind(found.texts, ["texts"]),
        pictures=kind(found.pictures, ["path", "width", "height"]),
        metadata=kind(found.metadata, list(kept)),
    )


def _snapshot(corpus: Corpus, release: OpenRelease) -> Snapshot:
    record = release.record
    try:
        snapshot = corpus.log.read(record.snapshot)
    except (ValueError, DamagedError) as error:
        raise DamagedError(f"the rows of release {record.number} can't be told: {error}") from error
    if snapshot.digest != record.snapshot_digest:
        raise DamagedError(f"snapshot {record.snapshot} holds other items than release {record.number} was made from")
    return snapshot


def _examples(before: OpenRelease, after: OpenRelease, ids: Sequence[str], columns: Sequence[str]) -> list[Example]:
    """The values that differ; those of an item that one release lacks are None there."""
    old, new = (_rows(release, ids, columns) for release in (before, after))
    return [
        Example(
            item_id=item_id,
            values=[
                Value(column=name, before=was, after=now)
                for name in columns
                if (was := old.get(item_id, {}).get(name)) != (now := new.get(item_id, {}).get(name))
            ],
        )
        for item_id in ids
    ]


def _rows(release: OpenRelease, ids: Sequence[str], columns: Sequence[str]) -> dict[str, dict[str, Any]]:
    if not ids:
        return {}
    present = [name for name in columns if name in release.columns]
    rows = release.dataset.to_table(columns=["item_id", *present], filter=pc.field("item_id").isin(list(ids)))
    return {row["item_id"]: {name: json_value(row[name]) for name in present} for row in rows.to_pylist()}
