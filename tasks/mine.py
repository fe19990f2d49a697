"""Mine: positives from what items share, hard negatives from what the champion confuses."""

import numpy as np
import pyarrow as pa

from models.mining.lexical import mine_lexical_negatives
from models.mining.negatives import Negatives, mine_negatives
from models.relations import KINDS, Relations
from storage.corpus import Corpus
from storage.digest import digest
from storage.embeddings import EmbeddingStore
from storage.pairs import PairStore
from storage.runs import Run
from storage.schema import PAIRS
from tasks.items import read_items
from tasks.pipeline import Pipeline
from tasks.refs import PairsRef, Plan
from tasks.stage import report_progress, stage

POSITIVES_PER_ANCHOR = 8
"""Positives written per item and kind; training reads the relations themselves, which know all of them."""


@stage()
def mine(pipeline: Pipeline, plan: Plan) -> PairsRef:
    """Write tonight's pairs. Without a champion the negatives are lexical."""
    run = Run(pipeline.folder, plan.run_id)
    if done := run.read("mine", PairsRef):
        return done
    corpus = Corpus(pipeline.folder)
    snapshot = corpus.log.read(plan.snapshot)
    items = read_items(corpus, snapshot, "train")
    if not items.item_ids:
        raise ValueError(f"pipeline {pipeline.name!r} has no training items: every item is in another split")
    report_progress("mine", 0, None, f"{len(items.item_ids):,} items")
    seed = pipeline.training.seed
    if plan.champion_model:
        store = EmbeddingStore(pipeline.folder, plan.champion_model)
        image_ND, text_ND = store.matrices(snapshot, items.item_ids)
        negatives = mine_negatives(image_ND, text_ND, items.relations, pipeline.mining, seed=seed)
    else:
        negatives = mine_lexical_negatives(items.relations, pipeline.mining, seed=seed)
    positives = positive_pairs(items.relations, items.item_ids)
    mined = [negative_pairs(each, items.item_ids, direction) for direction, each in negatives.items()]
    pairs = [positives, pa.concat_tables(mined)]
    pairs_id = digest([snapshot.digest, plan.champion_model, pipeline.mining.model_dump(mode="json"), seed])
    audit = {
        "anchors": len(items.item_ids),
        "positives": pairs[0].num_rows,
        "negatives": pairs[1].num_rows,
        "negatives_from": plan.champion_model or "texts",
        "skipped": {direction: each.skipped for direction, each in negatives.items()},
    }
    PairStore(pipeline.folder).write(pairs_id, pairs, audit)
    ref = PairsRef(pairs_id=pairs_id, positives=pairs[0].num_rows, negatives=pairs[1].num_rows)
    run.write("mine", ref)
    return ref


def positive_pairs(relations: Relations, item_ids: list[str]) -> pa.Table:
    """Known positives with their kind, at most POSITIVES_PER_ANCHOR per item and kind."""
    found = relations.positive_pairs(max_per_anchor=POSITIVES_PER_ANCHOR)
    ids = pa.array(item_ids, pa.string())
    kinds = pa.array(KINDS, pa.string()).take(pa.array(found.kinds_M))
    return _pairs(ids.take(pa.array(found.anchors_M)), ids.take(pa.array(found.positives_M)), "positive", kinds)


def negative_pairs(negatives: Negatives, item_ids: list[str], kind: str) -> pa.Table:
    """Hard negatives, hardest first per anchor."""
    anchors, ranks = np.nonzero(negatives.indices_NK >= 0)
    ids, others = pa.array(item_ids, pa.string()), negatives.indices_NK[anchors, ranks]
    scores = negatives.scores_NK[anchors, ranks]
    kinds = pa.repeat(kind, len(anchors))
    return _pairs(ids.take(pa.array(anchors)), ids.take(pa.array(others)), "negative", kinds, scores)


def _pairs(
    anchors: pa.Array, others: pa.Array, relation: str, kinds: pa.Array, scores: np.ndarray | None = None
) -> pa.Table:
    columns = [
        anchors,
        others,
        pa.repeat(relation, len(anchors)),
        kinds,
        pa.nulls(len(anchors), pa.float32()) if scores is None else pa.array(scores, pa.float32()),
    ]
    return pa.table(columns, schema=PAIRS)
