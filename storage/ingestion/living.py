"""The items of a snapshot, as columns."""

# L = living items

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pairloom.storage.corpus import SPLITS, Corpus, Part, Snapshot
from pairloom.storage.schema import ColumnType

_STRINGS = ("item_id", "content_digest", "stored_digest")
_COLUMNS = (*_STRINGS, "split", "source")


@dataclass(frozen=True, slots=True)
class Place:
    """Where a row of a part is."""

    part: str
    """The part's digest."""
    item_id: str


class Living:
    """What the corpus holds before tonight."""

    def __init__(self, corpus: Corpus, snapshot: Snapshot) -> None:
        self._corpus = corpus
        self.snapshot = snapshot
        columns: dict[str, list[pa.Array]] = {name: [] for name in _STRINGS}
        counts, splits, names = list[int](), list[pa.Array](), pa.array(SPLITS)
        self.sources: Counter[str] = Counter()
        """Items by source."""
        for part in snapshot.parts:
            counts.append(0)
            for batch in corpus.read(snapshot, part, _COLUMNS):
                counts[-1] += len(batch)
                splits.append(pc.index_in(batch["split"], value_set=names).cast(pa.int8()))
                for each in batch["source"].value_counts().to_pylist():
                    self.sources[each["values"]] += each["counts"]
                for name in _STRINGS:
                    columns[name].append(batch[name])
        self._part = np.repeat(np.arange(len(counts), dtype=np.int32), np.array(counts, np.int64))
        # One after the other, so that no more than one is held twice.
        self.item_ids, self.contents, self._stored = (
            pa.chunked_array(columns.pop(name), pa.string()).combine_chunks() for name in _STRINGS
        )
        self.splits = np.asarray(pa.chunked_array(splits, pa.int8()).to_numpy())
        """Places in `SPLITS`, (L,)."""

    def __len__(self) -> int:
        return len(self.item_ids)

    def rows(self, item_ids: Sequence[str]) -> dict[str, int]:
        """Row of each of some items that are here."""
        return _rows(self.item_ids, item_ids)

    def holders(self, stored_digests: Sequence[str]) -> dict[str, Place]:
        """Where the bytes of images with some digests are."""
        return {each: self.place(row) for each, row in _rows(self._stored, stored_digests).items()}

    def place(self, row: int) -> Place:
        """Where an item is."""
        return Place(self.snapshot.parts[self._part[row]].digest, self.item_ids[row].as_py())

    def stored(self, digests: Iterable[str]) -> Iterator[tuple[str, bytes]]:
        """Those images with some digests that are here, each with its digest."""
        parts: dict[str, dict[str, str]] = {}
        for each, place in self.holders(list(digests)).items():
            parts.setdefault(place.part, {})[place.item_id] = each
        for part in self.snapshot.parts:
            if wanted := parts.get(part.digest):
                among = ("item_id", pa.array(wanted, pa.string()))
                for batch in self._corpus.read(self.snapshot, part, ["item_id", "image"], among=among):
                    for row in batch.to_pylist():
                        yield wanted[row["item_id"]], row["image"]["bytes"]

    def rows_and_paths(
        self, rows: np.ndarray, columns: list[str], keep: Mapping[str, ColumnType] | None = None
    ) -> Iterator[tuple[dict[str, Any], str]]:
        """`columns`, with `item_id`, of some items and their images' paths; opens only parts that hold one.

        In the metadata columns of `keep` where that is given.
        """
        snapshot = self.snapshot if keep is None else self.snapshot.model_copy(update={"keep": dict(keep)})
        for number in np.unique(self._part[rows]):
            part = snapshot.parts[number]
            wanted = self.item_ids.take(pa.array(rows[self._part[rows] == number]))
            paths = self._corpus.image_paths(part)
            for row in part_rows(self._corpus, snapshot, part, wanted, columns):
                yield row, paths[row["item_id"]]


def part_rows(
    corpus: Corpus, snapshot: Snapshot, part: Part, item_ids: pa.Array, columns: list[str]
) -> Iterator[dict[str, Any]]:
    """`columns` of some items of one part."""
    for batch in corpus.read(snapshot, part, columns):
        yield from batch.filter(pc.is_in(batch["item_id"], value_set=item_ids)).to_pylist()


def _rows(column: pa.Array, values: Iterable[str]) -> dict[str, int]:
    wanted = pa.array(dict.fromkeys(values), pa.string())
    if not len(column) or not len(wanted):
        return {}
    found = np.flatnonzero(pc.is_in(column, value_set=wanted).to_numpy(zero_copy_only=False))
    return dict(zip(column.take(pa.array(found)).to_pylist(), found.tolist(), strict=True))
