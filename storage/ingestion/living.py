"""The items of the last snapshot, by the keys that tell new rows from old ones."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pairloom.storage.corpus import Corpus, Part, Snapshot
from pairloom.storage.schema import ColumnType


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
        self._snapshot = snapshot
        self._row: dict[str, int] = {}
        self._contents: list[str] = []
        self._splits: list[str] = []
        self._parts: list[str] = []
        self._holders: dict[str, str] = {}
        self.sources: Counter[str] = Counter()
        """Items by source."""
        columns = ["item_id", "content_digest", "split", "stored_digest", "source"]
        for part in snapshot.parts:
            for batch in corpus.read(snapshot, part, columns):
                ids, contents, splits, stored, sources = (column.to_pylist() for column in batch.columns)
                start = len(self._parts)
                self._row.update(zip(ids, range(start, start + len(ids)), strict=True))
                self._contents += contents
                self._splits += splits
                self._parts += [part.digest] * len(ids)
                self._holders.update(zip(stored, ids, strict=True))
                self.sources.update(sources)

    def __contains__(self, item_id: str) -> bool:
        return item_id in self._row

    def __iter__(self) -> Iterator[str]:
        return iter(self._row)

    def place(self, item_id: str) -> Place:
        """Where an item is."""
        return Place(self._parts[self._row[item_id]], item_id)

    def content(self, item_id: str) -> str | None:
        """Content digest of an item, None where there is none."""
        row = self._row.get(item_id)
        return None if row is None else self._contents[row]

    def split(self, item_id: str) -> str:
        """The split that an item is stored with."""
        return self._splits[self._row[item_id]]

    def holder(self, stored_digest: str) -> Place | None:
        """Where the bytes of an image with this digest are, if an item has it."""
        item_id = self._holders.get(stored_digest)
        return None if item_id is None else self.place(item_id)

    def rows_and_paths(
        self, item_ids: Iterable[str], columns: list[str], keep: Mapping[str, ColumnType] | None = None
    ) -> Iterator[tuple[dict[str, Any], str]]:
        """`columns`, with `item_id`, of some items and their images' paths; opens only parts that hold one.

        In the metadata columns of `keep` where that is given.
        """
        wanted: dict[str, list[str]] = {}
        for item_id in item_ids:
            wanted.setdefault(self.place(item_id).part, []).append(item_id)
        snapshot = self._snapshot if keep is None else self._snapshot.model_copy(update={"keep": dict(keep)})
        for part in snapshot.parts:
            if part.digest in wanted:
                paths = self._corpus.image_paths(part)
                for row in part_rows(self._corpus, snapshot, part, wanted[part.digest], columns):
                    yield row, paths[row["item_id"]]


def part_rows(
    corpus: Corpus, snapshot: Snapshot, part: Part, item_ids: list[str], columns: list[str]
) -> Iterator[dict[str, Any]]:
    """`columns` of some items of one part."""
    among = pa.array(item_ids, pa.string())
    for batch in corpus.read(snapshot, part, columns):
        yield from batch.filter(pc.is_in(batch["item_id"], value_set=among)).to_pylist()
