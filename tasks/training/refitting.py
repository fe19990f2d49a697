"""What `refit` does where a challenger passed: trains it on all items, and looks whether anything fell."""

import logging
from collections.abc import Mapping

import torch

from pairloom.models.encoder import Encoder
from pairloom.models.evaluation.hubness import hubness
from pairloom.models.evaluation.metrics import evaluate as measure
from pairloom.models.fitness import UnfitModelError
from pairloom.models.training.stability import COLLAPSED, spread
from pairloom.storage.corpus import Corpus, Snapshot
from pairloom.storage.embeddings import EmbeddingStore
from pairloom.storage.modelstore import ModelStore, is_plain
from pairloom.storage.releases import release_log
from pairloom.storage.runs import Run
from pairloom.storage.training_texts import TrainingTexts
from pairloom.tasks.embedding.features import kept_features
from pairloom.tasks.evaluation.card import RefitFacts, lineage, model_card
from pairloom.tasks.evaluation.pictures import Pictures
from pairloom.tasks.evaluation.retained import headline_metrics
from pairloom.tasks.items import read_items
from pairloom.tasks.pipeline import Pipeline
from pairloom.tasks.refs import ModelRef, PairsRef, Plan, Refit, Verdict
from pairloom.tasks.training.challenger import train_further

logger = logging.getLogger(__name__)


def refitted(pipeline: Pipeline, plan: Plan, verdict: Verdict) -> Refit:
    """The challenger trained further on all items, and whether it serves: where nothing fell, and nothing is broken."""
    run, models = Run(pipeline.folder, plan.run_id), ModelStore(pipeline.folder)
    pairs, challenger = run.read("mine", PairsRef), run.read("train", ModelRef)
    assert pairs is not None, "what passed was trained on them"
    assert challenger is not None, "it passed"
    trained = run.refit.read("train", ModelRef)
    if trained is None or (trained.model_id and not models.holds(trained.model_id)):
        train_further(pipeline, plan, pairs, challenger)
        trained = run.refit.read("train", ModelRef)
        assert trained is not None, "the first rank leaves it before it ends"
    snapshot = Corpus(pipeline.folder).log.read(plan.snapshot)
    metrics, wrong = looked_at(pipeline, snapshot, verdict, trained)
    if wrong:
        said = f"model {verdict.model_id} serves as it was measured; trained on all items it is not served: {wrong}"
        logger.warning("%s", said)
        return Refit(model_id=trained.model_id, serves=False, said=said, metrics=metrics)
    assert trained.model_id is not None, "nothing is wrong with it"
    describe(
        pipeline,
        plan,
        verdict,
        challenger,
        trained,
        RefitFacts.of_training(str(verdict.model_id), trained, snapshot.rows, metrics),
    )
    how = f"after {trained.steps:,} further steps on" if trained.steps else "made anew from"
    said = (
        f"model {trained.model_id} is model {verdict.model_id}, which was measured, {how} all {snapshot.rows:,} items"
    )
    return Refit(model_id=trained.model_id, serves=True, said=said, metrics=metrics)


def looked_at(
    pipeline: Pipeline, snapshot: Snapshot, verdict: Verdict, trained: ModelRef
) -> tuple[dict[str, float], str]:
    """What a refit reaches on the validation items, and why it can't serve; empty where it can.

    It has learned from these items, so that it is broken where it finds them worse than the model that has not.
    """
    if trained.model_id is None:
        return {}, trained.unfit
    folder, corpus = ModelStore(pipeline.folder).path(trained.model_id), Corpus(pipeline.folder)
    validation = read_items(corpus, snapshot, "val")
    items = validation if validation.item_ids else read_items(corpus, snapshot, None)
    encoder, texts = Encoder.load(folder), TrainingTexts(folder)
    store = EmbeddingStore(pipeline.folder, trained.model_id)
    pictures = Pictures(corpus, snapshot, encoder, store, kept_features(pipeline, encoder), pipeline)
    try:
        image_ND = pictures.embeddings(items.item_ids)
        text_TD = encoder.embed_texts(items.relations.texts)
    except UnfitModelError as error:
        return {}, str(error)
    for side, embedding_ND in (("image", image_ND), ("text", text_TD)):
        if len(embedding_ND) > 1 and (variance := spread(torch.from_numpy(embedding_ND))[0]) < COLLAPSED:
            return {}, f"its {side} embeddings have collapsed: their variance is {variance:.2g}"
    if not validation.item_ids:
        return {}, ""
    hubness_N = hubness(image_ND, texts.vectors()) if texts.kept else None
    metrics = measure(image_ND, text_TD, items.relations, pipeline.evaluation, {}, hubness_N).as_dict()
    return metrics, fallen(verdict.metrics, metrics, pipeline.gate.max_regression)


def fallen(before: Mapping[str, float], after: Mapping[str, float], most: float) -> str:
    """Which headline metrics fell by more than `most`, in a sentence; empty where none did."""
    found = [
        f"{name} fell from {before[name]:.4f} to {after[name]:.4f} on items that it has learned from"
        for name in headline_metrics(before)
        if after[name] < before[name] - most
    ]
    return "; ".join(found)


def describe(
    pipeline: Pipeline, plan: Plan, verdict: Verdict, challenger: ModelRef, trained: ModelRef, refit: RefitFacts
) -> None:
    """Write down what the model is, beside it. The folder of one that was ever released doesn't change."""
    models, model_id = ModelStore(pipeline.folder), str(trained.model_id)
    if models.described(model_id) and any(
        model_id in (each.model_id, each.measured) for each in release_log(pipeline.folder).written()
    ):
        return
    facts = lineage(pipeline, plan, challenger, verdict)
    facts |= {"model_id": model_id, "parent": challenger.model_id, "trunk": trained.trunk}
    facts["refit"] = refit.model_dump(mode="json")
    models.describe(model_id, facts, model_card(pipeline, facts, plain=is_plain(models.path(model_id))))
