"""Mined and given pairs as training takes them: by row numbers of its items."""

import math

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pairloom.models.batches.pairs import RELATIONS, ItemPairs
from pairloom.models.mining.negatives import Negatives, batch_negatives
from pairloom.tasks.items import Items

ENDS = ("anchor", "other")


def pairs_of(stored: pa.Table, items: Items) -> dict[str, ItemPairs]:
    """Given and mined pairs by relation, but for positives, by row numbers of the items."""
    rows, count = pa.array(items.item_ids, pa.string()), len(items.item_ids)
    found: dict[str, ItemPairs] = {}
    for relation in RELATIONS:
        own = stored.filter(pc.equal(stored["relation"], relation))
        if len(own):
            firsts_M, seconds_M = (pc.index_in(own[side], rows).to_numpy().astype(np.int64) for side in ENDS)
            targets_M = pc.fill_null(own["target"], math.nan).to_numpy()
            weights_M = pc.fill_null(own["weight"], 1.0).to_numpy()
            found[relation] = ItemPairs.once(count, firsts_M, seconds_M, targets_M, weights_M)
    return found


def stored_negatives(pairs: pa.Table, item_ids: list[str]) -> np.ndarray:
    """The mined negatives as row numbers (N, K), -1 where an anchor has fewer than K."""
    mined = pairs.filter(pc.equal(pairs["relation"], "negative"))
    rows = pa.array(item_ids, pa.string())
    negatives = {}
    for direction in mined["kind"].unique().to_pylist():
        own = mined.filter(pc.equal(mined["kind"], direction))
        anchors_M, others_M = (pc.index_in(own[side], rows).to_numpy() for side in ENDS)
        negatives[direction] = Negatives.of_pairs(anchors_M, others_M, own["score"].to_numpy(), len(item_ids))
    return batch_negatives(negatives) if negatives else np.empty((len(item_ids), 0), dtype=np.int32)
