"""What the champion finds among validation items: the release's as they were and as they are, and tonight's."""

# N = released items, M = new and changed rows, F = validation items

from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pairloom.models.arrays import Indices, Mask, Values
from pairloom.models.batches.relations import Relations
from pairloom.models.evaluation.agreement import Vectors
from pairloom.models.evaluation.config import DIRECTIONS, GateConfig
from pairloom.models.evaluation.findings import Finding, found
from pairloom.models.evaluation.row_agreement import K, kept, recall
from pairloom.storage.embeddings import EmbeddingStore
from pairloom.tasks.admission.evidence import COLUMNS, Evidence
from pairloom.tasks.admission.located import drawn

MOST = 2_000
"""Validation items that are asked for among one another."""


def judged_recall(store: EmbeddingStore, evidence: Evidence, config: GateConfig) -> Iterator[Finding]:
    """The release's validation items judge the rows. Tonight's, as many of them, are shown: new ones may be harder."""
    released, fresh = evidence.released, evidence.fresh
    stay_N = _validation(released.table) & ~released.are(evidence.changes.removed)
    val = drawn(np.flatnonzero(stay_N), MOST, config.seed)
    if not len(val):
        return
    rows, before = evidence.released_rows(val, COLUMNS), released.vectors(store, val)
    place = pc.index_in(rows["item_id"], fresh.table["item_id"].combine_chunks())
    place_F, positive_FF = np.asarray(pc.fill_null(place, -1), np.int64), positives(rows)
    changed_F = place_F >= 0
    after = replaced(before, changed_F, fresh.vectors(store, place_F[changed_F]))
    new = drawn(np.flatnonzero(evidence.new_M & _validation(fresh.table)), MOST, config.seed)
    for direction in DIRECTIONS:
        then_F, now_F = (recall_of(direction, each, positive_FF) for each in (before, after))
        yield kept(f"{direction}_recall@{K}", then_F, now_F, changed_F, config)
    if len(new):
        rows = pa.concat_tables([rows, fresh.table.take(pa.array(new)).select(rows.column_names)])
        yield from _shown(rows, joined(after, fresh.vectors(store, new)), len(val), config)


def _shown(rows: pa.Table, vectors: Vectors, count: int, config: GateConfig) -> Iterator[Finding]:
    """Of as many items as the release was asked for: among more, fewer would be found."""
    chosen: Indices = drawn(np.arange(len(vectors)), count, config.seed)
    positive_FF = positives(rows.take(pa.array(chosen)))
    for direction in DIRECTIONS:
        found_F = recall_of(direction, vectors.take(chosen), positive_FF)
        shown = f"{found_F.mean():.3f} of {count:,} among {len(vectors):,} items"
        yield found(f"{direction}_recall@{K} of tonight's validation items", "", shown)


def recall_of(direction: str, vectors: Vectors, positive_FF: Mask) -> Values:
    """(F,): which items are found, asked for with all of their texts at once; or their texts, with the image."""
    sides = (vectors.text_ND, vectors.image_ND)
    return recall(*(sides if direction == DIRECTIONS[0] else sides[::-1]), positive_FF)


def positives(rows: pa.Table) -> Mask:
    """(F, F): which items are positives of one another, by group, text or pixels."""
    relations = Relations.build(*(rows[name].to_pylist() for name in ("item_id", "group", "texts", "pixel_hash")))
    every_F = np.arange(len(relations))
    return relations.positive_mask(every_F, every_F)


def replaced(vectors: Vectors, changed_F: Mask, others: Vectors) -> Vectors:
    """Vectors with `others` in the places that changed."""
    if not changed_F.any():
        return vectors
    image_FD, text_FD = vectors.image_ND.copy(), vectors.text_ND.copy()
    image_FD[changed_F], text_FD[changed_F] = others.image_ND, others.text_ND
    return Vectors(image_FD, text_FD)


def joined(first: Vectors, second: Vectors) -> Vectors:
    """The vectors of both, one after the other."""
    return Vectors(np.concatenate([first.image_ND, second.image_ND]), np.concatenate([first.text_ND, second.text_ND]))


def _validation(rows: pa.Table) -> Mask:
    return np.asarray(pc.equal(rows["split"], "val"), dtype=bool)
