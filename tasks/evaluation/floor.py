"""The floor of a night: textbook features fitted on its training items, and asked what its models are asked."""

# N = items, T = unique texts, D = dimensions

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from PIL import Image

from pairloom.models.arrays import Embeddings
from pairloom.models.batches.relations import Relations
from pairloom.models.closed_form.image_features import SIDE, Pixels
from pairloom.models.evaluation.floor import fit_items, textbook_features
from pairloom.models.evaluation.metrics import RetrievalMetrics, Slice
from pairloom.models.evaluation.metrics import evaluate as measure
from pairloom.models.pictures import Picture, mapped, opened
from pairloom.storage.corpus import Corpus, Snapshot
from pairloom.storage.files import written_aside
from pairloom.storage.runs import Run
from pairloom.tasks.items import Items, part_pictures, read_items
from pairloom.tasks.pipeline import Pipeline
from pairloom.tasks.refs import Floor


@dataclass(frozen=True)
class FloorAnswers:
    """What textbook features make of the validation items."""

    image_ND: Embeddings
    text_TD: Embeddings
    items: int
    """Training items that they were fitted on."""
    of: int
    """Training items that there are."""


def measure_floor(
    pipeline: Pipeline, run: Run, corpus: Corpus, snapshot: Snapshot, asked: Items, slices: dict[str, Slice]
) -> tuple[RetrievalMetrics, Floor]:
    """The floor of the `asked` items, and what is told of it."""
    answers = floor_answers(run, corpus, snapshot, asked, seed=pipeline.evaluation.seed)
    measured = measure(answers.image_ND, answers.text_TD, asked.relations, pipeline.evaluation, slices)
    intervals = measured.intervals(pipeline.evaluation)
    return measured, Floor(metrics=measured.as_dict(), intervals=intervals, items=answers.items, of=answers.of)


def floor_answers(run: Run, corpus: Corpus, snapshot: Snapshot, asked: Items, *, seed: int) -> FloorAnswers:
    """Fitted tonight, or by the run that this one goes on with: it is of the same snapshot."""
    kept = run.here / f"floor-{seed}.npz"
    if kept.exists():
        with np.load(kept) as file:
            return FloorAnswers(file["image_ND"], file["text_TD"], int(file["items"]), int(file["of"]))
    answers = fit_and_ask(corpus, snapshot, asked, seed=seed)
    # A challenger that a person approves is measured again after its run was swept.
    if run.folder.is_dir():
        with written_aside(kept) as aside, aside.open("wb") as file:
            np.savez(file, **vars(answers))
    return answers


def fit_and_ask(corpus: Corpus, snapshot: Snapshot, asked: Items, *, seed: int) -> FloorAnswers:
    """Fitted on the training items of the snapshot, a draw of them where there are very many."""
    train = read_items(corpus, snapshot, "train")
    rows = fit_items(train.item_ids, train.groups, seed=seed)
    ids = [train.item_ids[row] for row in rows]
    relations = Relations.build(
        ids,
        [train.groups[row] for row in rows],
        [train.texts[row] for row in rows],
        [None] * len(rows),
    )
    fitted = textbook_features(small_pictures(corpus, snapshot, ids), relations, seed=seed)
    return FloorAnswers(
        image_ND=fitted.embed_images(small_pictures(corpus, snapshot, asked.item_ids)),
        text_TD=fitted.embed_texts(asked.relations.texts),
        items=len(ids),
        of=len(train.item_ids),
    )


def small_pictures(corpus: Corpus, snapshot: Snapshot, item_ids: Sequence[str]) -> Pixels:
    """The images of some items, drawn into `SIDE` x `SIDE` whatever their shape: uint8 (N, SIDE, SIDE, 3)."""
    found = np.empty((len(item_ids), SIDE, SIDE, 3), np.uint8)
    wanted = pa.array(item_ids, pa.string())
    for part in snapshot.parts:
        for pictures, places in part_pictures(corpus, snapshot, part, wanted, side=2 * SIDE):
            for place, small in zip(places, mapped(_small, pictures), strict=True):
                found[place] = small
    return found


def _small(picture: Picture) -> Pixels:
    resampled = opened(picture).resize((SIDE, SIDE), Image.Resampling.BICUBIC, reducing_gap=3.0)
    return np.asarray(resampled, np.uint8)
