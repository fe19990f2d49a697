"""Challengers that are each a little worse than what is served, as a training that goes slowly wrong leaves them."""

# N = items, T = texts

import copy
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace

import numpy as np
import torch

from benchmarks.gate_faults import adopting
from benchmarks.gate_stage import Ended, Stage
from pairloom.models.encoder import Encoder
from pairloom.models.evaluation.config import DIRECTIONS
from pairloom.models.evaluation.metrics import evaluate
from pairloom.models.towers.dual_encoder import DualEncoder, load
from pairloom.models.training.trainer import TrainingResult
from pairloom.storage.corpus import Corpus
from pairloom.storage.modelstore import ModelStore
from pairloom.storage.releases import release_log
from pairloom.tasks.evaluation.scoring import embed_items
from pairloom.tasks.items import read_items
from pairloom.tasks.pipeline import Pipeline

WORSE = 0.005
"""How far the mean of both headline recalls of a challenger is to be below the served model's."""
HALVINGS = 7


@dataclass(frozen=True)
class Decayed:
    """One challenger of the row."""

    recall: float
    """Mean of both headline metrics on the validation items."""
    below_served: float
    below_first: float
    ended: Ended


def decay(stage: Stage, challengers: int, val_fraction: float, seed: int) -> Iterator[Decayed]:
    """Nights in a row, each with a challenger that is `WORSE` than what is served at that time.

    `val_fraction` of the items ask: with more than the tenth of the first release, items ask that it learned.
    """
    folder = stage.copy(f"decay-{val_fraction}")
    split = {"ingest.val_fraction": val_fraction, "retention.grace_hours": 0}
    stage.night(stage.pipeline(folder, stage.own.rows, split), ExitStack())
    first: float | None = None
    released = 0
    for number in range(1, challengers + 1):
        # Another seed is another training, on nights that bring nothing else.
        settings = {**split, "training.max_steps": 1, "training.seed": number}
        pipeline = stage.pipeline(folder, stage.own.rows, settings)
        served = release_log(pipeline.folder).current()
        assert served is not None
        encoder = load(ModelStore(pipeline.folder).path(served.model_id))
        measure = measuring(pipeline)
        before = measure(encoder)
        first = before if first is None else first
        # From the first one, so that what rounding makes of one step is made up for by the next.
        worse, recall = degraded(encoder, measure, first - WORSE * (released + 1), seed + number)

        def leave(result: TrainingResult, worse: DualEncoder = worse) -> TrainingResult:
            return replace(result, encoder=worse)

        during = ExitStack()
        during.enter_context(adopting(leave))
        ended = stage.night(pipeline, during)
        released += ended.outcome == "released"
        yield Decayed(recall, before - recall, first - recall, ended)


def measuring(pipeline: Pipeline) -> Callable[[DualEncoder], float]:
    """Gives the mean of both headline metrics of an encoder on the validation items."""
    corpus = Corpus(pipeline.folder)
    snapshot = corpus.current()
    items = read_items(corpus, snapshot, "val")

    def measure(encoder: DualEncoder) -> float:
        image_ND, text_TD = embed_items(corpus, snapshot, items, Encoder(encoder))
        metrics = evaluate(image_ND, text_TD, items.relations, pipeline.evaluation, {}).as_dict()
        return float(np.mean([metrics[f"{direction}_recall@10"] for direction in DIRECTIONS]))

    return measure


def degraded(
    encoder: DualEncoder, measure: Callable[[DualEncoder], float], wanted: float, seed: int
) -> tuple[DualEncoder, float]:
    """The encoder with noise on its weights, as much as brings it nearest to the wanted recall; and what it has."""
    random = torch.Generator().manual_seed(seed)
    start = {name: each.detach().clone() for name, each in encoder.network.named_parameters()}
    noise = {
        name: each.std() * torch.randn(each.shape, generator=random) if each.numel() > 1 else 0 * each
        for name, each in start.items()
    }
    low, high = 0.0, 1.0
    best: tuple[float, DualEncoder, float] | None = None
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        tried = copy.deepcopy(encoder)
        with torch.no_grad():
            for name, weight in tried.network.named_parameters():
                weight.copy_(start[name] + middle * noise[name])
        recall = measure(tried)
        if best is None or abs(recall - wanted) < best[0]:
            best = (abs(recall - wanted), tried, recall)
        low, high = (middle, high) if recall > wanted else (low, middle)
    assert best is not None
    return best[1], best[2]
