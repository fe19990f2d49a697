"""Tonight's pairs: positives from what items share or nearly share, hard negatives from what the champion confuses."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pairloom.models.arrays import Indices
from pairloom.models.batches.relations import KINDS, Edges, Relations
from pairloom.models.mining.lexical import mine_lexical_negatives
from pairloom.models.mining.negatives import Negatives, mine_negatives
from pairloom.storage.corpus import Corpus, Snapshot
from pairloom.storage.embeddings import EmbeddingStore
from pairloom.storage.ingestion.splits import MIN_TRAINING_ITEMS
from pairloom.storage.quarantine import RejectedRows, explained
from pairloom.storage.schema import PAIRS
from pairloom.tasks.items import read_items
from pairloom.tasks.mining.audit import audit
from pairloom.tasks.mining.distances import target_pairs
from pairloom.tasks.mining.edges import joined_edges, near_duplicate_edges
from pairloom.tasks.mining.given import given_edges, given_rows, read_given, without_contradictions
from pairloom.tasks.mining.neighbours import followed_lists
from pairloom.tasks.pipeline import Pipeline
from pairloom.tasks.stage import report_progress

POSITIVES_PER_ANCHOR = 8
"""Positives written per item and kind; training reads the relations themselves, which know all of them."""


@dataclass(frozen=True)
class MinedPairs:
    """The pairs of one snapshot."""

    tables: list[pa.Table]
    audit: dict[str, Any]

    def count(self, relation: str) -> int:
        """How many pairs of a relation there are."""
        return sum(pc.sum(pc.equal(each["relation"], relation)).as_py() or 0 for each in self.tables)


def mined_pairs(pipeline: Pipeline, model_id: str | None, snapshot: Snapshot) -> MinedPairs:
    """All pairs for training on a snapshot. Without a champion (`model_id`) the negatives are lexical.

    Raises ValueError where fewer than two items are for training.
    """
    corpus = Corpus(pipeline.folder)
    items = read_items(corpus, snapshot, "train")
    if len(items.item_ids) < MIN_TRAINING_ITEMS:
        raise ValueError(too_few(pipeline, corpus, snapshot, len(items.item_ids)))
    report_progress("mine", 0, 1, f"{len(items.item_ids):,} items")
    given = read_given(pipeline.pairs, corpus, snapshot)
    near = near_duplicate_edges(corpus, snapshot, "train", pipeline.mining.near_duplicate_bits)
    edges = joined_edges(near, given_edges(given, items.item_ids))
    relations = items.relations.with_edges(edges)
    given = without_contradictions(given, relations)
    negatives = hard_negatives(pipeline, model_id, snapshot, relations)
    # Given rows come before mined ones: training takes an anchor's negatives in this order, the first of equal pairs.
    tables = [
        positive_pairs(items.relations, edges),
        given_rows(given),
        negative_pairs(negatives, items.item_ids),
        target_pairs(pipeline, corpus, snapshot, items.item_ids),
    ]
    found = audit(pa.concat_tables(tables), items, negatives)
    found |= {"negatives_from": model_id or "texts", "given": given.report, "distances": len(tables[-1])}
    return MinedPairs(tables, found)


def too_few(pipeline: Pipeline, corpus: Corpus, snapshot: Snapshot, training: int) -> str:
    """Why nothing can be learned from so few items for training: which are in other splits, which rows are no items."""
    others = snapshot.rows - training
    elsewhere = f"; {others:,} more in other splits" if others else ""
    rejected = explained(RejectedRows(corpus, snapshot).counts(pipeline.sources), seen=0)
    why = f": {rejected}" if rejected else ""
    return f"pipeline {pipeline.name!r} has too few items for training ({training} of at least 2){elsewhere}{why}"


def hard_negatives(
    pipeline: Pipeline, model_id: str | None, snapshot: Snapshot, relations: Relations
) -> dict[str, Negatives]:
    """By direction, from the champion's embeddings, or lexical ones where there is none."""
    seed = pipeline.training.seed
    if model_id is None:
        return mine_lexical_negatives(relations, pipeline.mining, seed=seed)
    vectors = EmbeddingStore(pipeline.folder, model_id).matrices(snapshot, relations.item_ids)
    note = f"neighbours of {len(relations):,} items"
    lists = followed_lists(
        pipeline, model_id, snapshot, vectors, relations, lambda share: report_progress("mine", share, 1, note)
    )
    return mine_negatives(*vectors, relations, pipeline.mining, seed=seed, lists=lists)


def positive_pairs(relations: Relations, edges: Edges) -> pa.Table:
    """Known positives with their kind: of what items share at most POSITIVES_PER_ANCHOR an item and kind, then `edges`
    both ways."""
    found = relations.positive_pairs(max_per_anchor=POSITIVES_PER_ANCHOR)
    anchors = np.concatenate([found.anchors_M, edges.firsts_M, edges.seconds_M])
    others = np.concatenate([found.positives_M, edges.seconds_M, edges.firsts_M])
    kinds = pa.array(KINDS, pa.string()).take(pa.array(np.concatenate([found.kinds_M, edges.kinds_M, edges.kinds_M])))
    weights_M = np.concatenate([found.weights_M, edges.weights_M, edges.weights_M])
    table = _pairs(relations.item_ids, (anchors, others), "positive", kinds, pa.nulls(len(anchors), pa.float32()))
    return table.set_column(PAIRS.get_field_index("weight"), PAIRS.field("weight"), pa.array(weights_M))


def negative_pairs(negatives: Mapping[str, Negatives], item_ids: list[str]) -> pa.Table:
    """Hard negatives under their direction, hardest first per anchor."""
    tables = []
    for direction, each in negatives.items():
        anchors, places = np.nonzero(each.indices_NK >= 0)
        ends = anchors, each.indices_NK[anchors, places]
        scores = pa.array(each.scores_NK[anchors, places])
        tables.append(_pairs(item_ids, ends, "negative", pa.repeat(direction, len(anchors)), scores))
    return pa.concat_tables(tables)


def _pairs(
    item_ids: tuple[str, ...] | list[str],
    ends: tuple[Indices, np.ndarray],
    relation: str,
    kinds: pa.Array,
    scores: pa.Array,
) -> pa.Table:
    ids = pa.array(item_ids, pa.string())
    anchors, others = (ids.take(pa.array(rows)) for rows in ends)
    nulls = pa.nulls(len(anchors), pa.float32())
    return pa.table([anchors, others, pa.repeat(relation, len(anchors)), kinds, scores, nulls, nulls], schema=PAIRS)
