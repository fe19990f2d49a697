"""Tonight's items beside those that the corpus holds."""

# I = tonight's items, L = living items

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pairloom.storage.corpus import SPLITS
from pairloom.storage.ingestion.living import Living
from pairloom.storage.ingestion.settling import content_digest, said_digest
from pairloom.storage.ingestion.splits import group_position
from pairloom.storage.schema import ColumnType


@dataclass
class Items:
    """All items of tonight, those that stay without a row after those that are one."""

    item_ids: pa.Array
    contents: pa.Array
    rows: int
    """How many are rows."""
    splits_I: np.ndarray
    """Places in `SPLITS`."""
    living_L: np.ndarray
    """Place of each living item among these, -1 for one that leaves."""

    def splits_at(self, places: np.ndarray) -> np.ndarray:
        """The splits of some; -1 at place -1."""
        found: np.ndarray = np.append(self.splits_I, np.int8(-1))[places]
        return found


@dataclass(frozen=True, slots=True)
class Retained:
    """An item that stays without a row."""

    content: str
    """Its content digest in tonight's columns."""
    position: int
    """Of its group."""
    named: int
    """The split that its source named, or -1."""
    perceptual_hash: str | None
    stored_digest: str


def retained_items(living: Living, stay: np.ndarray, keep: Mapping[str, ColumnType]) -> Iterator[Retained]:
    """Items that are kept without a row, as they are; in the metadata columns of `keep`."""
    found: dict[str, Retained] = {}
    same_columns = living.snapshot.keep == keep
    for row, path in living.rows_and_paths(stay, [*_STORED, *keep], keep=keep):
        # Older parts don't say whether the source named the split: there it stays.
        named = None if row["split_named"] is False else row["split"]
        content = row["content_digest"]
        if not same_columns:
            metadata = {name: row[name] for name in keep}
            said = said_digest(row["pixel_hash"], row["texts"], row["group"], named, metadata)
            size = (row["width"], row["height"])
            content = content_digest(said, row["stored_digest"], size, path, row["source"])
        position = group_position(row["group"] or row["pixel_hash"])
        found[row["item_id"]] = Retained(
            content=content,
            position=position,
            named=SPLITS.index(named) if named else -1,
            perceptual_hash=row["perceptual_hash"],
            stored_digest=row["stored_digest"],
        )
    return (found[item_id] for item_id in living.item_ids.take(pa.array(stay)).to_pylist())


def places_among(values: pa.Array, among: pa.Array) -> np.ndarray:
    """Place of each value among others, or -1."""
    if not len(values):
        return np.zeros(0, np.int64)
    found = pc.fill_null(pc.index_in(values, value_set=among), -1)
    return np.asarray(found.to_numpy(zero_copy_only=False)).astype(np.int64)


def equal_at(values: pa.Array, others: pa.Array, places: np.ndarray) -> np.ndarray:
    """Whether each value is the one at its place among others; not where that place is -1."""
    if not len(values):
        return np.zeros(0, bool)
    there = others.take(pa.array(places, mask=places < 0))
    return np.asarray(pc.fill_null(pc.equal(values, there), False).to_numpy(zero_copy_only=False))


_STORED = [
    "item_id",
    "pixel_hash",
    "perceptual_hash",
    "texts",
    "group",
    "split",
    "split_named",
    "content_digest",
    "stored_digest",
    "width",
    "height",
    "source",
]
