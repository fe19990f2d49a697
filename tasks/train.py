"""Train: tonight's challenger, warm-started from the champion, from the mined pairs."""

import json
import math
from itertools import chain
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pairloom.models.batches.feed import TrainingItems
from pairloom.models.batches.pairs import RELATIONS, ItemPairs
from pairloom.models.batches.pixels import open_pixels, write_pixels
from pairloom.models.mining.negatives import Negatives, batch_negatives
from pairloom.models.ranks import joined
from pairloom.models.towers.creation import create
from pairloom.models.towers.dual_encoder import DualEncoder, load
from pairloom.models.towers.word_start import start_from_words
from pairloom.models.training.launcher import launch, processes_wanted
from pairloom.models.training.log import TrainingProgress, read_log
from pairloom.models.training.trainer import Recipe, TrainingResult
from pairloom.models.training.trainer import train as train_encoder
from pairloom.storage.corpus import Corpus, Snapshot
from pairloom.storage.files import written_aside
from pairloom.storage.modelstore import ModelStore
from pairloom.storage.pairs import PairStore
from pairloom.storage.runs import Run
from pairloom.tasks.items import Items, read_items, second_tower_items, split_images
from pairloom.tasks.mining.edges import stored_edges
from pairloom.tasks.pipeline import Pipeline
from pairloom.tasks.refs import ModelRef, PairsRef, Plan
from pairloom.tasks.stage import report_progress, stage
from pairloom.tasks.words import corpus_words

ENDS = ("anchor", "other")


@stage()
def train(pipeline: Pipeline, plan: Plan, pairs: PairsRef) -> ModelRef:
    """Train a challenger and put it into the model store. A killed training goes on from its last checkpoint."""
    run = Run(pipeline.folder, plan.run_id)
    if done := run.read("train", ModelRef):
        return done
    processes = processes_wanted(pipeline.training)
    if processes > 1:
        launch(train_together, (pipeline, plan, pairs), processes, watch=lambda: show_log(run.folder / "training"))
    else:
        train_together(pipeline, plan, pairs)
    ref = run.read("train", ModelRef)
    assert ref is not None, "the first rank leaves it before it ends"
    return ref


def train_together(pipeline: Pipeline, plan: Plan, pairs: PairsRef) -> None:
    """Train as one rank of several, or alone. The first rank writes what all read, and the model."""
    run = Run(pipeline.folder, plan.run_id)
    corpus = Corpus(pipeline.folder)
    snapshot = corpus.log.read(plan.snapshot)
    items = read_items(corpus, snapshot, "train")
    champion = fitting_champion(pipeline, plan)
    start = starting_point(pipeline, champion, items, snapshot)
    second_N = second_tower_items(corpus, snapshot, items.item_ids, start.second)
    mined = PairStore(pipeline.folder).read(pairs.pairs_id)
    relations = items.relations.with_edges(stored_edges(mined, items.item_ids))
    pixels = run.folder / "pixels.npy"
    with joined(pipeline.training.rank_timeout_minutes) as ranks:
        if ranks.leads and not pixels.exists():
            with written_aside(pixels) as aside:
                images = chain.from_iterable(split_images(corpus, snapshot, "train"))
                write_pixels(images, len(items.item_ids), start.preprocess_cfg, aside)
        ranks.wait()
        negatives_NK = stored_negatives(mined, items.item_ids)
        pairs_by_relation = pairs_of(mined, items)
        result = train_encoder(
            start,
            TrainingItems(
                tuple(items.item_ids), open_pixels(pixels), relations, negatives_NK, pairs_by_relation, second_N
            ),
            Recipe(pipeline.training, pipeline.objective, pipeline.model, pipeline.mining, champion),
            workdir=run.folder / "training",
            ranks=ranks,
            progress=show,
        )
        if ranks.leads:
            adopt(run, ModelStore(pipeline.folder), result)
        ranks.wait()


def adopt(run: Run, models: ModelStore, result: TrainingResult) -> None:
    """Put the trained model into the store, and leave word of it."""
    built = run.folder / "model"
    result.encoder.save(built)
    result.objectives.save_kept(built)
    model_id = models.adopt(built, read_log(run.folder / "training"))
    ref = ModelRef(
        model_id=model_id, steps=result.steps, samples=result.samples, seconds=result.seconds, loss=result.loss
    )
    run.write("train", ref)


def fitting_champion(pipeline: Pipeline, plan: Plan) -> Path | None:
    """The champion's folder where it has tonight's architecture and towers."""
    if plan.champion_model is None:
        return None
    champion = ModelStore(pipeline.folder).path(plan.champion_model)
    made = json.loads((champion / "pairloom.json").read_bytes())["model"]
    # Locks, adapters and rates may change from night to night.
    wanted = pipeline.model.model_dump(mode="json", include={"architecture", "pretrained", "second_image_tower"})
    return champion if all(made.get(name) == value for name, value in wanted.items()) else None


def starting_point(pipeline: Pipeline, champion: Path | None, items: Items, snapshot: Snapshot) -> DualEncoder:
    """The champion, or without one a network from `model:`."""
    if champion:
        return load(champion)
    texts = [text for texts in items.texts for text in texts]
    encoder = create(pipeline.model, texts, seed=pipeline.training.seed)
    if pipeline.model.word_vectors:
        start_from_words(encoder, corpus_words(pipeline.folder, snapshot, pipeline.model.word_vectors))
    return encoder


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


def show(progress: TrainingProgress) -> None:
    """Pass the trainer's progress on."""
    left = (
        f"{progress.eta_seconds / 60:.0f} min left"
        if progress.eta_seconds >= 90
        else f"{progress.eta_seconds:.0f} s left"
    )
    note = f"loss {progress.loss:.3f} · {progress.samples_per_second:,.0f} samples/s · {left}"
    report_progress("train", progress.fraction, 1.0, note)


def show_log(folder: Path) -> None:
    """Pass on the progress of a training in other processes."""
    if lines := read_log(folder):
        last = lines[-1]
        rates = (last["loss"], last["samples_per_second"], last["eta_seconds"])
        show(TrainingProgress(int(last["step"]), last["fraction"], *rates))
