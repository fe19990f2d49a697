"""Tonight's challenger: warm-started from the champion, trained on the mined pairs, put into the model store."""

from collections.abc import Sequence
from itertools import chain
from pathlib import Path

from pairloom.models.batches.feed import TrainingItems
from pairloom.models.batches.pixels import open_pixels, write_pixels
from pairloom.models.encoder import Encoder
from pairloom.models.fitness import UnfitModelError
from pairloom.models.ranks import joined
from pairloom.models.towers.creation import create
from pairloom.models.towers.dual_encoder import DualEncoder, load
from pairloom.models.towers.word_start import start_from_words
from pairloom.models.training.launcher import launch, processes_wanted
from pairloom.models.training.log import read_log
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
from pairloom.tasks.training.champion import fitting_champion
from pairloom.tasks.training.pairs import pairs_of, stored_negatives
from pairloom.tasks.training.progress import show, show_log
from pairloom.tasks.training.texts import keep_training_texts
from pairloom.tasks.words import corpus_words


def train_challenger(pipeline: Pipeline, plan: Plan, pairs: PairsRef) -> None:
    """Train in as many processes as `training.processes` asks for, and leave word of the model in the run's folder."""
    processes = processes_wanted(pipeline.training)
    if processes > 1:
        log = Run(pipeline.folder, plan.run_id).training
        launch(train_together, (pipeline, plan, pairs), processes, watch=lambda: show_log(log))
    else:
        train_together(pipeline, plan, pairs)


def train_together(pipeline: Pipeline, plan: Plan, pairs: PairsRef) -> None:
    """Train as one rank of several, or alone. The first rank writes what all read, and the model.

    A training that went wrong leaves word of that: the same inputs would give no other, however often it is tried.
    """
    run = Run(pipeline.folder, plan.run_id)
    corpus = Corpus(pipeline.folder)
    snapshot = corpus.log.read(plan.snapshot)
    items = read_items(corpus, snapshot, "train")
    champion = fitting_champion(pipeline, plan.champion_model)
    start = starting_point(pipeline, champion, items, snapshot)
    second_N = second_tower_items(corpus, snapshot, items.item_ids, start.second)
    mined = PairStore(pipeline.folder).read(pairs.pairs_id)
    relations = items.relations.with_edges(stored_edges(mined, items.item_ids))
    with joined(pipeline.training.rank_timeout_minutes) as ranks:
        if ranks.leads and not run.pixels.exists():
            with written_aside(run.pixels) as aside:
                images = chain.from_iterable(split_images(corpus, snapshot, "train"))
                write_pixels(images, len(items.item_ids), start.preprocess_cfg, aside)
        ranks.wait()
        negatives_NK = stored_negatives(mined, items.item_ids)
        pairs_by_relation = pairs_of(mined, items)
        try:
            result = train_encoder(
                start,
                TrainingItems(
                    tuple(items.item_ids), open_pixels(run.pixels), relations, negatives_NK, pairs_by_relation, second_N
                ),
                Recipe(pipeline.training, pipeline.objective, pipeline.model, pipeline.mining, champion),
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
                adopt(run, ModelStore(pipeline.folder), result, items.relations.texts)
        ranks.wait()


def adopt(run: Run, models: ModelStore, result: TrainingResult, texts: Sequence[str]) -> None:
    """Put the trained model into the store with what it has to say of its training `texts`, and leave word of it."""
    result.encoder.save(run.built)
    result.objectives.save_kept(run.built)
    keep_training_texts(run.built, Encoder(result.encoder), texts)
    model_id = models.adopt(run.built, read_log(run.training))
    ref = ModelRef(
        model_id=model_id, steps=result.steps, samples=result.samples, seconds=result.seconds, loss=result.loss
    )
    run.write("train", ref)


def starting_point(pipeline: Pipeline, champion: Path | None, items: Items, snapshot: Snapshot) -> DualEncoder:
    """The champion, or without one a network from `model:`."""
    if champion:
        return load(champion)
    texts = [text for texts in items.texts for text in texts]
    encoder = create(pipeline.model, texts, seed=pipeline.training.seed)
    if pipeline.model.word_vectors:
        start_from_words(encoder, corpus_words(pipeline.folder, snapshot, pipeline.model.word_vectors))
    return encoder
