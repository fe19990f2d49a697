"""Items of a snapshot as columns in memory, with the parts that hold them, so that their vectors are found."""

# N = items, M = some of them

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pairloom.models.arrays import Embeddings, Indices, Mask
from pairloom.models.evaluation.agreement import Vectors
from pairloom.storage.corpus import Corpus, Part, Snapshot
from pairloom.storage.embeddings import EmbeddingStore


@dataclass(frozen=True)
class Located:
    """N items."""

    table: pa.Table
    parts: tuple[Part, ...]
    part_N: Indices
    """Each item's part, as its place in `parts`."""

    def __len__(self) -> int:
        return len(self.table)

    @classmethod
    def of(cls, batches: Iterable[tuple[Part, pa.RecordBatch]], schema: pa.Schema) -> "Located":
        """Of batches with the parts that they are from."""
        found = list(batches)
        parts = tuple({part.digest: part for part, _ in found}.values())
        place = {part.digest: at for at, part in enumerate(parts)}
        part_N = np.repeat([place[part.digest] for part, _ in found], [len(batch) for _, batch in found])
        table = pa.Table.from_batches([batch for _, batch in found], schema)
        return cls(table, parts, part_N.astype(np.int64))

    def are(self, item_ids: pa.Array) -> Mask:
        """(N,): which of them are among some ids."""
        return np.asarray(pc.is_in(self.table["item_id"], value_set=item_ids), dtype=bool)

    def among(self, item_ids: pa.Array) -> "Located":
        """Those that are among some ids."""
        chosen_N = self.are(item_ids)
        return Located(self.table.filter(pa.array(chosen_N)), self.parts, self.part_N[chosen_N])

    def rows(self, corpus: Corpus, snapshot: Snapshot, rows_M: Indices, columns: Sequence[str]) -> pa.Table:
        """These columns, `item_id` the first of them, of some of the items, which are of a snapshot; few others are
        read."""
        item_ids = self.table["item_id"].take(pa.array(rows_M)).combine_chunks()
        found = [
            batch
            for part in np.unique(self.part_N[rows_M])
            for batch in corpus.read(snapshot, self.parts[part], columns, among=("item_id", item_ids))
        ]
        table = pa.Table.from_batches(found)
        return table.take(pc.index_in(item_ids, value_set=table["item_id"].combine_chunks()))

    def vectors(self, store: EmbeddingStore, rows_M: Indices) -> Vectors:
        """The embeddings (M, D) of some items. Raises DamagedError where the store lacks one."""
        item_ids = self.table["item_id"].take(pa.array(rows_M)).combine_chunks()
        part_M = self.part_N[rows_M]
        sides: dict[int, Embeddings] = {}
        for part in np.unique(part_M):
            place = np.flatnonzero(part_M == part)
            for side, found_KD in enumerate(store.vectors(self.parts[part], item_ids.take(pa.array(place)))):
                sides.setdefault(side, np.empty((len(rows_M), found_KD.shape[1]), np.float32))[place] = found_KD
        return Vectors(sides[0], sides[1]) if sides else Vectors(*np.empty((2, 0, 1), np.float32))


def first_texts(texts: pa.Array) -> pa.Array:
    """The first of each item's texts, as texts are compared: in small letters."""
    return pc.utf8_lower(pc.utf8_trim_whitespace(pc.list_element(texts, 0)))


def numbered(first: Iterable[pa.Array], second: Iterable[pa.Array]) -> tuple[Indices, Indices]:
    """The values of two columns of strings, given in pieces, as numbers: equal ones are equal numbers, in both."""
    pieces = [[piece.fill_null("") for piece in each] for each in (first, second)]
    encoded = pa.chunked_array([*pieces[0], *pieces[1]], pa.string()).dictionary_encode()
    number_N = np.concatenate([np.zeros(0, np.int64), *(piece.indices.to_numpy() for piece in encoded.chunks)])
    count = sum(map(len, pieces[0]))
    return number_N[:count], number_N[count:]


def drawn(rows: Indices, most: int, seed: int) -> Indices:
    """At most so many of some row numbers, in their order."""
    if len(rows) <= most:
        return rows
    return np.sort(np.random.default_rng(seed).permutation(rows)[:most])
