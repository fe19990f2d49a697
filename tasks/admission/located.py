"""Items of a snapshot as columns in memory, with the parts that hold them, so that their vectors are found."""

# N = items, M = some of them

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pairloom.models.arrays import Embeddings, Indices, Mask
from pairloom.models.evaluation.agreement import Vectors
from pairloom.storage.corpus import Part
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

    def first_texts(self) -> pa.ChunkedArray:
        """Each item's first text, as texts are compared: in small letters."""
        return pc.utf8_lower(pc.utf8_trim_whitespace(pc.list_element(self.table["texts"], 0)))

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


def numbered(first: pa.ChunkedArray, second: pa.ChunkedArray) -> tuple[Indices, Indices]:
    """The values of two columns as numbers: equal ones are equal numbers, in both."""
    joined = pa.chunked_array([*first.chunks, *second.chunks], first.type).combine_chunks()
    numbers = np.asarray(joined.fill_null("").dictionary_encode().indices, dtype=np.int64)
    return numbers[: len(first)], numbers[len(first) :]


def drawn(rows: Indices, most: int, seed: int) -> Indices:
    """At most so many of some row numbers, in their order."""
    if len(rows) <= most:
        return rows
    return np.sort(np.random.default_rng(seed).permutation(rows)[:most])
