"""Tonight's challenger: warm-started from the champion, trained on the mined pairs, put into the model store."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from pairloom.models.batches.feed import TrainingItems
from pairloom.models.batches.pixels import open_features
from pairloom.models.encoder import Encoder
from pairloom.models.export import IMAGES as COMPARED_IMAGES
from pairloom.models.export import Compared, export
from pairloom.models.fitness import UnfitModelError
from pairloom.models.geometry import Geometry
from pairloom.models.ranks import first_rank, joined
from pairloom.models.towers.creation import create
from pairloom.models.towers.dual_encoder import DualEncoder, load
from pairloom.models.towers.package_words import package_words
from pairloom.models.towers.text_trunk import frozen_text_trunk
from pairloom.models.towers.word_start import start_from_words, token_width, vocabulary_words
from pairloom.models.training.closed_start import start_in_closed_form
from pairloom.models.training.config import TrainingConfig
from pairloom.models.training.launcher import launch, processes_wanted
from pairloom.models.training.log import read_log
from pairloom.models.training.trainer import Recipe, TrainingResult
from pairloom.models.training.trainer import train as train_encoder
from pairloom.storage.corpus import Corpus, Snapshot
from pairloom.storage.modelstore import ModelStore
from pairloom.storage.pairs import PairStore
from pairloom.storage.runs import Run
from pairloom.tasks.items import Items, read_items, second_tower_items, split_images
from pairloom.tasks.mining.edges import joined_edges, near_duplicate_edges, stored_edges
from pairloom.tasks.pipeline import Pipeline
from pairloom.tasks.refs import ModelRef, PairsRef, Plan
from pairloom.tasks.stage import report_progress
from pairloom.tasks.training.champion import fitting_champion
from pairloom.tasks.training.inputs import Inputs
from pairloom.tasks.training.pairs import pairs_of, stored_negatives
from pairloom.tasks.training.progress import show, show_log, stage_at_hand
from pairloom.tasks.training.texts import keep_training_texts
from pairloom.tasks.words import corpus_words


@dataclass(frozen=True)
class Lesson:
    """What a training learns from, from where on, and for how long."""

    run: Run
    split: str | None
    """The split whose items it learns from; None for all items."""
    champion: Path | None
    """Folder of the model that it starts from; None where it starts from `model:`."""
    training: TrainingConfig


class Trunks(NamedTuple):
    """Digests of what no training moves of each tower; empty where there is nothing like that."""

    image: str = ""
    text: str = ""


UNKNOWN = Trunks()


def train_challenger(pipeline: Pipeline, plan: Plan, pairs: PairsRef) -> None:
    """Train tonight's challenger on the training items, and leave word of the model in the run's folder."""
    run, champion = Run(pipeline.folder, plan.run_id), fitting_champion(pipeline, plan.rival)
    give(Lesson(run, "train", champion, pipeline.training), pipeline, plan, pairs)


def train_further(pipeline: Pipeline, plan: Plan, pairs: PairsRef, challenger: ModelRef) -> None:
    """Train a challenger further, on all items, and leave word of that model in the folder within the run's."""
    assert challenger.model_id is not None, "what passed is a model"
    measured = None if pipeline.model.closed_form_start else ModelStore(pipeline.folder).whole(challenger.model_id)
    run, training = Run(pipeline.folder, plan.run_id).refit, pipeline.training.further(challenger.steps)
    give(Lesson(run, None, measured, training), pipeline, plan, pairs)


def give(lesson: Lesson, pipeline: Pipeline, plan: Plan, pairs: PairsRef) -> None:
    """Train in as many processes as `training.processes` asks for."""
    processes = processes_wanted(pipeline.training)
    if processes > 1:
        # Before the ranks join: what they wait for in one another has a time-out.
        material(lesson, pipeline, plan).write(pipeline.training.pixels)
        log, began = lesson.run.training, time.monotonic()

        def watch() -> None:
            show_log(log, f"{processes} processes start, {time.monotonic() - began:.0f} s so far")

        launch(train_together, (lesson, pipeline, plan, pairs), processes, watch=watch)
    else:
        train_together(lesson, pipeline, plan, pairs)


def train_together(lesson: Lesson, pipeline: Pipeline, plan: Plan, pairs: PairsRef) -> None:
    """Train as one rank of several, or alone. The first rank writes what all read, and the model.

    A training that went wrong leaves word of that: the same inputs would give no other, however often it is tried.
    """
    run, split, champion = lesson.run, lesson.split, lesson.champion
    inputs = material(lesson, pipeline, plan)
    if first_rank():
        inputs.write(pipeline.training.pixels)
    corpus, snapshot, items = inputs.corpus, inputs.snapshot, inputs.items
    start, features = inputs.start, inputs.features
    second_N = second_tower_items(corpus, snapshot, items.item_ids, start.second)
    mined = PairStore(pipeline.folder).read(pairs.pairs_id)
    edges = stored_edges(mined, items.item_ids)
    if split is None:
        # Tonight's pairs are of training items alone.
        near = near_duplicate_edges(corpus, snapshot, split, pipeline.mining.near_duplicate_bits)
        edges = joined_edges(edges, near)
    relations = items.relations.with_edges(edges)
    inputs.wait()
    with joined(pipeline.training.rank_timeout_minutes) as ranks:
        if features and pipeline.model.closed_form_start and champion is None:
            start_in_closed_form(
                start,
                open_features(run.features),
                items.relations,
                pipeline.model,
                seed=pipeline.training.seed,
                keywords=items.keywords,
                apart_MF=open_features(run.moved) if pipeline.model.moved_copies else None,
            )
            ranks.share_weights(start.network)
        negatives_NK = stored_negatives(mined, items.item_ids)
        pairs_by_relation = pairs_of(mined, items)
        try:
            with inputs.trunk_aside():
                result = train_encoder(
                    start,
                    TrainingItems(
                        tuple(items.item_ids),
                        inputs.open(),
                        relations,
                        negatives_NK,
                        pairs_by_relation,
                        second_N,
                    ),
                    Recipe(lesson.training, pipeline.objective, pipeline.model, pipeline.mining, champion),
                    workdir=run.training,
                    ranks=ranks,
                    progress=show,
                )
        except UnfitModelError as error:
            # All ranks see the same loss.
            ref = ModelRef(model_id=None, unfit=str(error), steps=0, samples=0, seconds=0.0, loss=0.0)
            if ranks.leads:
                run.write("train", ref)
        else:
            if ranks.leads:
                text_trunk, compared = frozen_text_trunk(result.encoder, pipeline.model), None
                trunks = Trunks(features.trunk.digest if features else "", text_trunk.digest if text_trunk else "")
                if pipeline.model.export:
                    geometry = Geometry.of(start.preprocess_cfg)
                    few = next(split_images(corpus, snapshot, split))[:COMPARED_IMAGES]
                    compared = Compared(items.relations.texts, np.stack([geometry(picture) for picture in few]))
                adopt(run, ModelStore(pipeline.folder), result, items.relations.texts, trunks, compared)
        ranks.wait()


def material(lesson: Lesson, pipeline: Pipeline, plan: Plan) -> Inputs:
    """What a training looks at, and the network that it starts from."""
    report_progress(stage_at_hand(), 0, None, "reading the items")
    corpus = Corpus(pipeline.folder)
    snapshot = corpus.log.read(plan.snapshot)
    items = read_items(corpus, snapshot, lesson.split, keywords=pipeline.model.keywords)
    start = starting_point(pipeline, lesson.champion, items, snapshot)
    return Inputs.of(pipeline, lesson.run, snapshot, lesson.split, items, start)


def adopt(
    run: Run,
    models: ModelStore,
    result: TrainingResult,
    texts: Sequence[str],
    trunks: Trunks = UNKNOWN,
    compared: Compared | None = None,
) -> None:
    """Put the trained model into the store with what it has to say of its training `texts`, and leave word of it.

    `trunks` are what was frozen of it. It is exported where there is something to compare.
    """
    result.encoder.save(run.built)
    result.objectives.save_kept(run.built)
    keep_training_texts(run.built, Encoder(result.encoder), texts)
    if compared:
        export(run.built, compared)
    model_id = models.adopt(run.built, read_log(run.training))
    ref = ModelRef(
        model_id=model_id,
        trunk=trunks.image,
        text_trunk=trunks.text,
        steps=result.steps,
        samples=result.samples,
        seconds=result.seconds,
        loss=result.loss if result.steps else None,
    )
    run.write("train", ref)


def starting_point(pipeline: Pipeline, champion: Path | None, items: Items, snapshot: Snapshot) -> DualEncoder:
    """The champion, or without one a network from `model:`."""
    if champion:
        return load(champion)
    texts = [text for own in (*items.texts, *items.keywords) for text in own]
    encoder = create(pipeline.model, texts, seed=pipeline.training.seed)
    if pipeline.model.closed_form_start:
        return encoder
    if isinstance(words := pipeline.model.word_vectors, str):
        start_from_words(encoder, package_words(words, vocabulary_words(encoder), token_width(encoder)))
    elif words:
        start_from_words(encoder, corpus_words(pipeline.folder, snapshot, words))
    return encoder
