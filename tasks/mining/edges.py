"""Positive pairs beyond what items share: how a night finds them, and how training gets them back."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from PIL import Image

from pairloom.models.batches.relations import KINDS, Edges
from pairloom.models.mining.near_duplicates import THUMBNAIL, Thumbnails, near_duplicates
from pairloom.storage.corpus import Corpus, Snapshot
from pairloom.tasks.items import images_of

STORED_KINDS = ("near_duplicate", "given")
"""Kinds of positives that can't be told from the items themselves."""


def near_duplicate_edges(corpus: Corpus, snapshot: Snapshot, split: str | None, bits: int | None) -> Edges:
    """Pairs of near-duplicates among the items of `split`, of all splits for None, in the order of `read_items`; none
    where `bits` is None."""
    rows = corpus.table(snapshot, ["item_id", "perceptual_hash", "split"])
    rows = rows if split is None else rows.filter(pc.equal(rows["split"], split))
    firsts_M, seconds_M = np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64)
    if bits is not None:
        firsts_M, seconds_M = near_duplicates(
            rows["perceptual_hash"].to_pylist(),
            bits,
            lambda wanted_U: thumbnails(corpus, snapshot, rows["item_id"].combine_chunks().take(pa.array(wanted_U))),
        )
    kinds_M = np.full(len(firsts_M), KINDS.index("near_duplicate"), dtype=np.int8)
    return Edges(firsts_M, seconds_M, kinds_M, np.ones(len(firsts_M), dtype=np.float32))


def thumbnails(corpus: Corpus, snapshot: Snapshot, wanted: pa.StringArray) -> Thumbnails:
    """Uint8 (U, side, side, 3) of some items, box-averaged."""
    small_U = np.zeros((len(wanted), THUMBNAIL, THUMBNAIL, 3), dtype=np.uint8)
    for place, image in images_of(corpus, snapshot, wanted):
        small_U[place] = np.asarray(image.resize((THUMBNAIL, THUMBNAIL), Image.Resampling.BOX))
    return small_U


def stored_edges(pairs: pa.Table, item_ids: list[str]) -> Edges:
    """The pairs of `STORED_KINDS` among mined pairs, by row numbers of `item_ids`; each once, sorted, with the largest
    of its weights."""
    known = pairs.filter(
        pc.and_(pc.equal(pairs["relation"], "positive"), pc.is_in(pairs["kind"], pa.array(STORED_KINDS)))
    )
    ids = pa.array(item_ids, pa.string())
    ends_2M = np.stack([pc.index_in(known[side], ids).to_numpy() for side in ("anchor", "other")])
    kinds_M = pc.index_in(known["kind"], pa.array(KINDS)).to_numpy()
    weights_M = pc.fill_null(known["weight"], 1).to_numpy()
    order_M = np.argsort(-weights_M, kind="stable")
    rows_M3 = np.stack([ends_2M.min(axis=0), ends_2M.max(axis=0), kinds_M], axis=1).astype(np.int64)[order_M]
    found, first = np.unique(rows_M3, axis=0, return_index=True)
    return Edges(found[:, 0], found[:, 1], found[:, 2].astype(np.int8), weights_M[order_M][first].astype(np.float32))


def joined_edges(*all_edges: Edges) -> Edges:
    """All of them, one after another."""
    names = ("firsts_M", "seconds_M", "kinds_M", "weights_M")
    return Edges(*(np.concatenate([getattr(edges, name) for edges in all_edges]) for name in names))
