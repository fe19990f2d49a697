"""Challenger and champion measured on the same validation items, and the gate's word on them."""

import logging
from dataclasses import replace

from pairloom.models.encoder import Encoder
from pairloom.models.evaluation.gate import Difference, gate
from pairloom.models.evaluation.metrics import RetrievalMetrics
from pairloom.models.evaluation.metrics import evaluate as measure
from pairloom.models.fitness import UnfitModelError
from pairloom.storage.corpus import Corpus, Snapshot
from pairloom.storage.modelstore import ModelStore
from pairloom.tasks.evaluation.probing import embed_probe_items, probe_embeddings, read_probe_items
from pairloom.tasks.items import Items, read_items, second_tower_items, split_images, split_slices
from pairloom.tasks.pipeline import Pipeline
from pairloom.tasks.refs import ModelRef, Plan, Verdict
from pairloom.tasks.stage import report_progress

logger = logging.getLogger(__name__)


def contest(pipeline: Pipeline, plan: Plan, challenger: ModelRef) -> Verdict:
    """Measure the challenger and, where there is one, the champion. Without validation items the challenger passes.

    A challenger that gives no finite embeddings, or that its training has not given at all, is held.
    """
    if challenger.model_id is None:
        return held(challenger, challenger.unfit)
    corpus, models = Corpus(pipeline.folder), ModelStore(pipeline.folder)
    snapshot = corpus.log.read(plan.snapshot)
    items = read_items(corpus, snapshot, "val", pipeline.evaluation.slices)
    if not items.item_ids:
        logger.warning("pipeline %r has no validation items: the challenger is not measured", pipeline.name)
        return Verdict(
            passed=True,
            model_id=challenger.model_id,
            metrics={},
            champion_metrics={},
            reasons=(),
            comparisons=("there are no validation items to measure on",),
        )
    contenders = [challenger.model_id, *([plan.champion_model] if plan.champion_model else [])]
    measured: list[RetrievalMetrics] = []
    for number, model_id in enumerate(contenders):
        report_progress("evaluate", number, len(contenders), f"{len(items.item_ids):,} items")
        encoder = Encoder.load(models.path(model_id))
        try:
            measured.append(measure_encoder(pipeline, corpus, snapshot, items, encoder))
        except UnfitModelError as error:
            if model_id != challenger.model_id:
                raise
            return held(challenger, f"model {model_id} can't be measured: {error}")
    return judge(pipeline, challenger, measured)


def held(challenger: ModelRef, reason: str) -> Verdict:
    """The word on a challenger that needs no measuring."""
    return Verdict(
        passed=False,
        model_id=challenger.model_id,
        metrics={},
        champion_metrics={},
        reasons=(reason,),
        comparisons=(),
    )


def measure_encoder(
    pipeline: Pipeline, corpus: Corpus, snapshot: Snapshot, items: Items, encoder: Encoder
) -> RetrievalMetrics:
    """Retrieval metrics of one model on the validation items, and what probes read off its embeddings."""
    second_N = second_tower_items(corpus, snapshot, items.item_ids, encoder.second)
    image_ND = encoder.embed_batches(split_images(corpus, snapshot, "val"), second_N)
    text_TD = encoder.embed_texts(items.relations.texts)
    slices = split_slices(corpus, snapshot, items)
    measured = measure(image_ND, text_TD, items.relations, pipeline.evaluation, slices)
    asked = read_probe_items(corpus, snapshot, items.item_ids, pipeline.evaluation)
    train_ND = embed_probe_items(corpus, snapshot, asked, encoder)
    return replace(measured, probes=probe_embeddings(asked, train_ND, image_ND, pipeline.evaluation.seed))


def judge(pipeline: Pipeline, challenger: ModelRef, measured: list[RetrievalMetrics]) -> Verdict:
    """The gate's word on the challenger (first of `measured`) against the champion (second, if there is one)."""
    champion = measured[1] if len(measured) > 1 else None
    said = gate(measured[0], champion, pipeline.gate)
    return Verdict(
        passed=said.passed,
        model_id=challenger.model_id,
        metrics=measured[0].as_dict(),
        intervals=measured[0].intervals(pipeline.evaluation),
        champion_metrics=champion.as_dict() if champion else {},
        champion_intervals=champion.intervals(pipeline.evaluation) if champion else {},
        reasons=said.reasons,
        comparisons=tuple(sentence(each, pipeline.gate.confidence) for each in said.comparisons),
    )


def sentence(found: Difference, confidence: float) -> str:
    """One comparison in words."""
    return (
        f"{found.metric} {found.champion:.4f} → {found.challenger:.4f} "
        f"({found.difference:+.4f}, {confidence:.0%} interval {found.low:+.4f} to {found.high:+.4f})"
    )
