"""Who an item must meet in a batch, for objectives that compare items: a known positive, or the other of a pair."""

# N = items, F = keys, B = batch, P = pools (the items that one item may meet, by one key or pair relation),
# E = stored entries of a matrix, V = members of all pools

from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass

import numpy as np
from scipy import sparse  # type: ignore[import-untyped]  # SciPy publishes no type information

from pairloom.models.arrays import Indices
from pairloom.models.batches.config import Positive
from pairloom.models.batches.pairs import ItemPairs, no_pairs
from pairloom.models.batches.relations import Relations


@dataclass(frozen=True)
class _Pools:
    """Pools that hold at least one item beside their own."""

    item_P: Indices
    """Whose pool it is."""
    start_P: Indices
    """Its first member among all."""
    others_P: Indices
    """Members beside the item itself."""
    own_P: Indices
    """The item's own place among the members; `others_P` where it is none of them."""
    member_V: Indices


class Partners:
    """Draws partners of items by the wanted relations: `positive`, or one of the pairs' Parquet."""

    def __init__(self, relations: Relations, pairs: Mapping[str, ItemPairs], wanted: AbstractSet[str]) -> None:
        """ValueError where a wanted relation has no pair."""
        kinds: list[_Pools] = []
        for relation in sorted(wanted):
            if relation == Positive:
                kinds.append(_sharing(relations.item_keys_NF.tocsr()))
                if relations.edge_weights_NN is not None:
                    kinds.append(_linked(relations.edge_weights_NN.tocsr()))
            elif relation in pairs:
                kinds.append(_linked(pairs[relation].partners))
            else:
                raise no_pairs(relation)
        self._pools = _by_item(kinds)
        self._bounds = np.searchsorted(self._pools.item_P, np.arange(len(relations) + 1))

    def draw(self, items: Indices, random: np.random.Generator) -> Indices:
        """One partner of each item, at random; left out where an item has none, and never an item itself.

        Each of an item's pools is as likely as any other, and in it each member.
        """
        first_B = self._bounds[items]
        count_B = self._bounds[items + 1] - first_B
        met_B = count_B > 0
        pool_B = first_B[met_B] + random.integers(count_B[met_B])
        place_B = random.integers(self._pools.others_P[pool_B])
        place_B += place_B >= self._pools.own_P[pool_B]
        drawn: Indices = self._pools.member_V[self._pools.start_P[pool_B] + place_B]
        return drawn


def _linked(linked_NN: sparse.csr_matrix) -> _Pools:
    """For each item the others that it is linked with; no item is linked with itself."""
    count_N = np.diff(linked_NN.indptr).astype(np.int64)
    item_P = np.flatnonzero(count_N)
    others_P = count_N[item_P]
    return _Pools(item_P, linked_NN.indptr[item_P].astype(np.int64), others_P, others_P, linked_NN.indices)


def _sharing(keys_NF: sparse.csr_matrix) -> _Pools:
    """For each key of an item those that are under it, the item too, since each is under all of its keys."""
    key_E, item_E = keys_NF.indices, np.repeat(np.arange(keys_NF.shape[0]), np.diff(keys_NF.indptr))
    count_F = np.bincount(key_E, minlength=keys_NF.shape[1])
    shared_E = np.flatnonzero(count_F[key_E] > 1)
    # Members stand key by key, and the items of a key in their order.
    order_V = shared_E[np.argsort(key_E[shared_E], kind="stable")]
    size_P = count_F[key_E[order_V]]
    _, start_P = np.unique(key_E[order_V], return_index=True)
    start_P = np.repeat(start_P, size_P[start_P])
    member_V = item_E[order_V]
    return _Pools(member_V, start_P, size_P - 1, np.arange(len(member_V)) - start_P, member_V)


def _by_item(kinds: Sequence[_Pools]) -> _Pools:
    """All pools, those of an item side by side."""
    shift = np.cumsum([0, *(len(each.member_V) for each in kinds)])
    item_P = np.concatenate([each.item_P for each in kinds])
    order_P = np.argsort(item_P, kind="stable")
    return _Pools(
        item_P[order_P],
        np.concatenate([each.start_P + by for each, by in zip(kinds, shift, strict=False)])[order_P],
        np.concatenate([each.others_P for each in kinds])[order_P],
        np.concatenate([each.own_P for each in kinds])[order_P],
        np.concatenate([each.member_V for each in kinds]),
    )
