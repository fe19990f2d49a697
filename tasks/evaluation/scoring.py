"""Scoring: what any open_clip model is worth on any source, in a corpus that lasts as long as the measuring."""

import logging
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path

from pydantic import BaseModel

from pairloom.models.arrays import Embeddings
from pairloom.models.arrays import Scores as Hubness
from pairloom.models.encoder import Encoder
from pairloom.models.evaluation.hubness import hubness
from pairloom.models.evaluation.metrics import column_slices
from pairloom.models.evaluation.metrics import evaluate as measure
from pairloom.models.pictures import Picture
from pairloom.models.towers.creation import create
from pairloom.storage.corpus import Corpus, Snapshot
from pairloom.storage.ingest import Ingest, RowCounts
from pairloom.storage.sources.rows import read_source
from pairloom.storage.sources.source_row import SourceRow
from pairloom.storage.training_texts import TrainingTexts
from pairloom.tasks.evaluation.probing import embed_probe_items, probe_embeddings, read_probe_items
from pairloom.tasks.items import Items, image_batches, read_items, second_tower_items, split_slices
from pairloom.tasks.pipeline import Pipeline
from pairloom.tasks.stage import clock, report_end, report_progress, timed

logger = logging.getLogger(__name__)


class Scores(BaseModel, frozen=True):
    """How good one model is on one source."""

    model: str
    data: str
    split: str | None
    """The split whose items were asked; None for all."""
    rows: dict[str, int]
    """What became of the source's rows, and `scored`: the items that were asked."""
    rejected: dict[str, int]
    """Rows that did not become items, by reason; those that `where` filters are in `rows` only."""
    queries: dict[str, int]
    """By direction."""
    metrics: dict[str, float]
    probes: dict[str, float]
    """Accuracy of classifiers of the image embeddings, by `probe_<column>_<classifier>`; learned on the train split."""
    intervals: dict[str, tuple[float, float]]
    """Low and high end of each of `metrics` and `probes`, at the level `confidence`."""
    confidence: float
    seconds: dict[str, float]


def score(pipeline: Pipeline, split: str | None) -> Scores:
    """Measure `pipeline.model`, as it is, on the only source of a pipeline that stores where nothing is yet.

    Raises ValueError where no row becomes an item, or none of `split`.
    """
    seconds, config = clock(), pipeline.evaluation
    with timed("load"):
        encoder = named_encoder(pipeline)
    with timed("ingest"):
        corpus = Corpus(pipeline.folder)
        run = Ingest(corpus, pipeline.columns.types, pipeline.ingest)
        snapshot, counts = run.run(pipeline.sources, pipeline.columns, lambda seen: report_progress("ingest", seen))
    report_end("ingest", f"{counts.new:,} items of {counts.seen:,} rows", seconds["ingest"])
    rejected = rejections(corpus, snapshot)
    items = scored_items(pipeline, corpus, snapshot, split, counts)
    with timed("embed"):
        image_ND, text_TD = embed_items(corpus, snapshot, items, encoder)
    report_end("embed", f"{len(image_ND):,} images and {len(text_TD):,} texts", seconds["embed"])
    with timed("measure"):
        seen = split_slices(corpus, snapshot, items) if split else column_slices(items.relations, items.slices)
        measured = measure(image_ND, text_TD, items.relations, config, seen, own_hubness(pipeline, image_ND))
    with timed("probe"):
        asked = read_probe_items(corpus, snapshot, items.item_ids, config)
        train_ND = embed_probe_items(corpus, snapshot, asked, encoder)
        measured = replace(measured, probes=probe_embeddings(asked, train_ND, image_ND, config.seed))
    with timed("measure"):
        metrics, intervals = measured.as_dict(), measured.intervals(config)
    return Scores(
        model=" ".join(filter(None, (pipeline.model.architecture, pipeline.model.pretrained))),
        data=", ".join(map(str, pipeline.sources[0].paths)),
        split=split,
        rows={**asdict(counts), "scored": len(items.item_ids)},
        rejected=rejected,
        queries={direction: len(answers.queries_Q) for direction, answers in measured.answers.items()},
        metrics={name: value for name, value in metrics.items() if name not in measured.probes},
        probes={name: metrics[name] for name in measured.probes},
        intervals=intervals,
        confidence=config.confidence,
        seconds=seconds,
    )


def own_hubness(pipeline: Pipeline, image_ND: Embeddings) -> Hubness | None:
    """(N,): the images' hubness, where the model is one of ours, whose folder holds training texts to measure it by."""
    _, local, folder = pipeline.model.architecture.partition("local-dir:")
    texts = TrainingTexts(Path(folder))
    return hubness(image_ND, texts.vectors()) if local and texts.kept else None


def named_encoder(pipeline: Pipeline) -> Encoder:
    """The model, before any image is decoded: a name that is wrong costs nobody minutes."""
    name = pipeline.model.architecture
    if pipeline.model.pretrained is None and not name.startswith(("local-dir:", "hf-hub:")):
        logger.warning("%s starts from nothing, so this is what chance gives: name weights with --pretrained", name)
    rows = read_source(pipeline.sources[0], pipeline.columns)
    texts = [text for row in rows if isinstance(row, SourceRow) for text in row.texts]
    return Encoder(create(pipeline.model, texts, seed=pipeline.training.seed))


def rejections(corpus: Corpus, snapshot: Snapshot) -> dict[str, int]:
    """Rejected rows by reason, the most frequent first."""
    found = Counter(row["reason"] for batch in corpus.rejected(snapshot, ["reason"]) for row in batch.to_pylist())
    return dict(sorted(found.items(), key=lambda each: (-each[1], each[0])))


def scored_items(pipeline: Pipeline, corpus: Corpus, snapshot: Snapshot, split: str | None, counts: RowCounts) -> Items:
    """The items to ask for. Raises ValueError, with the reasons, where there are none."""
    source = ", ".join(map(str, pipeline.sources[0].paths))
    if snapshot.rows == 0:
        reasons = [f"{count} {reason}" for reason, count in rejections(corpus, snapshot).items()]
        reasons += [f"{counts.filtered} filtered by where"] if counts.filtered else []
        raise ValueError(f"{source}: none of {counts.seen} rows became an item: {', '.join(reasons) or 'it is empty'}")
    items = read_items(corpus, snapshot, split, pipeline.evaluation.slices)
    if not items.item_ids:
        raise ValueError(f"{source}: none of {snapshot.rows} items is in the split {split!r}; leave it out for all")
    return items


def embed_items(corpus: Corpus, snapshot: Snapshot, items: Items, encoder: Encoder) -> tuple[Embeddings, Embeddings]:
    """Image embeddings (N, D) of the items and text embeddings (T, D) of their unique texts."""

    def told() -> Iterator[list[Picture]]:
        done = 0
        for images in image_batches(corpus, snapshot, items.item_ids):
            yield images
            done += len(images)
            report_progress("embed", done, len(items.item_ids))

    second_N = second_tower_items(corpus, snapshot, items.item_ids, encoder.second)
    return encoder.embed_batches(told(), second_N), encoder.embed_texts(items.relations.texts)
