"""The challenger and what is released measured on the same validation items, and the gate's word on it."""

import logging
from dataclasses import dataclass, replace

from pairloom.models.encoder import Encoder
from pairloom.models.evaluation.gate import Decision, Difference, gate, gate_unmeasured
from pairloom.models.evaluation.hubness import hubness
from pairloom.models.evaluation.metrics import RetrievalMetrics, Slice
from pairloom.models.evaluation.metrics import evaluate as measure
from pairloom.models.fitness import UnfitModelError
from pairloom.storage.corpus import Corpus
from pairloom.storage.embeddings import EmbeddingStore
from pairloom.storage.modelstore import ModelStore
from pairloom.storage.runs import Run
from pairloom.storage.training_texts import TrainingTexts
from pairloom.tasks.embedding.features import kept_features
from pairloom.tasks.evaluation.floor import measure_floor
from pairloom.tasks.evaluation.pictures import Pictures
from pairloom.tasks.evaluation.probing import ProbeItems, probe_embeddings, read_probe_items
from pairloom.tasks.items import Items, read_items, split_slices
from pairloom.tasks.pipeline import Pipeline
from pairloom.tasks.refs import ModelRef, Plan, Verdict
from pairloom.tasks.stage import report_progress

logger = logging.getLogger(__name__)

CHAMPION = "the champion"


@dataclass(frozen=True)
class Questions:
    """What every contender is asked; read once."""

    items: Items
    slices: dict[str, Slice]
    probes: ProbeItems


def contest(pipeline: Pipeline, plan: Plan, challenger: ModelRef) -> Verdict:
    """Measure the challenger, the champion and the best retained release, as far as there are such, and judge.

    A challenger that gives no finite embeddings, or that its training has not given at all, is held.
    """
    if challenger.model_id is None:
        return held(challenger, challenger.unfit)
    corpus, models = Corpus(pipeline.folder), ModelStore(pipeline.folder)
    snapshot = corpus.log.read(plan.snapshot)
    items = read_items(corpus, snapshot, "val", pipeline.evaluation.slices)
    rivals = rival_models(plan)
    if not items.item_ids:
        return verdict(pipeline, challenger, gate_unmeasured(pipeline.gate, first=not rivals))
    asked = Questions(
        items=items,
        slices=split_slices(corpus, snapshot, items),
        probes=read_probe_items(corpus, snapshot, items.item_ids, pipeline.evaluation),
    )

    def measured(model_id: str, number: int) -> RetrievalMetrics:
        report_progress("evaluate", number, 1 + len(rivals), f"{len(items.item_ids):,} items")
        # The challenger was named by its bytes a moment ago; the others have lain there.
        folder = models.whole(model_id) if number else models.path(model_id)
        encoder, store = Encoder.load(folder), EmbeddingStore(pipeline.folder, model_id)
        pictures = Pictures(corpus, snapshot, encoder, store, kept_features(pipeline, encoder), pipeline)
        return measure_encoder(pipeline, asked, pictures, TrainingTexts(folder))

    try:
        own = measured(challenger.model_id, 0)
    except UnfitModelError as error:
        return held(challenger, f"model {challenger.model_id} can't be measured: {error}")
    others: dict[str, RetrievalMetrics] = {}
    for number, (rival, model_id) in enumerate(rivals.items(), 1):
        try:
            others[rival] = measured(model_id, number)
        except (ValueError, RuntimeError) as error:
            if rival == CHAMPION:
                raise
            # It may want a column that is kept no more, say: it isn't what is served.
            logger.warning("%s is left out of the comparison: %s", rival, error)
    textbook, floor = None, None
    if pipeline.gate.floor != "off":
        run = Run(pipeline.folder, plan.run_id)
        textbook, floor = measure_floor(pipeline, run, corpus, snapshot, items, asked.slices)
    said, champion = gate(own, others, pipeline.gate, textbook), others.pop(CHAMPION, None)
    for warning in said.warnings:
        logger.warning("%s", warning)
    judged = verdict(pipeline, challenger, said, own, champion, next(iter(others.values()), None))
    return judged.model_copy(update={"floor": floor})


def rival_models(plan: Plan) -> dict[str, str]:
    """The models that a challenger is compared with, by what they are in words."""
    rivals = {CHAMPION: plan.rival} if plan.rival else {}
    return rivals | ({f"release {plan.best}": plan.best_model} if plan.best_model else {})


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


def measure_encoder(pipeline: Pipeline, asked: Questions, pictures: Pictures, texts: TrainingTexts) -> RetrievalMetrics:
    """Retrieval metrics of one model on the validation items, and what probes read off its embeddings."""
    image_ND = pictures.embeddings(asked.items.item_ids)
    text_TD = pictures.encoder.embed_texts(asked.items.relations.texts)
    hubness_N = hubness(image_ND, texts.vectors()) if texts.kept else None
    measured = measure(image_ND, text_TD, asked.items.relations, pipeline.evaluation, asked.slices, hubness_N)
    train_ND = pictures.embeddings(asked.probes.train_ids)
    return replace(measured, probes=probe_embeddings(asked.probes, train_ND, image_ND, pipeline.evaluation.seed))


def verdict(
    pipeline: Pipeline,
    challenger: ModelRef,
    said: Decision,
    own: RetrievalMetrics | None = None,
    champion: RetrievalMetrics | None = None,
    best: RetrievalMetrics | None = None,
) -> Verdict:
    """The gate's word on the challenger, with what was measured of it, of the champion and of the best before that."""
    return Verdict(
        passed=said.passed,
        model_id=challenger.model_id,
        metrics=own.as_dict() if own else {},
        intervals=own.intervals(pipeline.evaluation) if own else {},
        champion_metrics=champion.as_dict() if champion else {},
        champion_intervals=champion.intervals(pipeline.evaluation) if champion else {},
        best_metrics=best.as_dict() if best else {},
        reasons=said.reasons,
        comparisons=(
            *(sentence(each, pipeline.gate.confidence) for each in said.comparisons),
            *said.unsure,
            *said.warnings,
        ),
    )


def sentence(found: Difference, confidence: float) -> str:
    """One comparison in words."""
    return (
        f"{found.metric} {found.before:.4f} → {found.challenger:.4f} against {found.rival} "
        f"({found.difference:+.4f}, joint {confidence:.0%} interval {found.low:+.4f} to {found.high:+.4f})"
    )
