"""Who an item must meet in a batch, for objectives that compare items: a known positive, or the other of a pair."""

# N = items, F = keys, B = batch

from collections.abc import Mapping
from collections.abc import Set as AbstractSet

import numpy as np
from scipy import sparse  # type: ignore[import-untyped]  # SciPy publishes no type information

from pairloom.models.arrays import Indices
from pairloom.models.batches.config import Positive
from pairloom.models.batches.pairs import ItemPairs, no_pairs
from pairloom.models.batches.relations import Relations


class Partners:
    """Draws partners of items by the wanted relations: `positive`, or one of the pairs' Parquet."""

    def __init__(self, relations: Relations, pairs: Mapping[str, ItemPairs], wanted: AbstractSet[str]) -> None:
        """ValueError where a wanted relation has no pair."""
        self._linked: list[sparse.csr_matrix] = []
        self._keys: sparse.csr_matrix | None = None
        for relation in sorted(wanted):
            if relation == Positive:
                self._keys = relations.item_keys_NF.tocsr()
                self._members = self._keys.T.tocsr()
                if relations.edge_weights_NN is not None:
                    self._linked.append(relations.edge_weights_NN.tocsr())
            elif relation in pairs:
                self._linked.append(pairs[relation].partners)
            else:
                raise no_pairs(relation)

    def draw(self, items: Indices, random: np.random.Generator) -> Indices:
        """One partner of each item, at random; left out where an item has none, and never an item itself."""
        drawn = [self._one(int(item), random) for item in items]
        return np.array([partner for partner in drawn if partner >= 0], dtype=np.int64)

    def _one(self, item: int, random: np.random.Generator) -> int:
        # No item is linked with itself, and each is under all of its keys.
        pools = [pool for pool in (_row(linked, item) for linked in self._linked) if len(pool)]
        if self._keys is not None:
            pools += [pool for key in _row(self._keys, item) if len(pool := _row(self._members, int(key))) > 1]
        if not pools:
            return -1
        pool = pools[random.integers(len(pools))]
        while (partner := int(pool[random.integers(len(pool))])) == item:
            pass
        return partner


def _row(matrix: sparse.csr_matrix, row: int) -> Indices:
    """The columns stored in a row."""
    columns: Indices = matrix.indices[matrix.indptr[row] : matrix.indptr[row + 1]]
    return columns
