"""The search for the training items' neighbours, shared out over the workers of a cluster."""

# Q = rows that are searched for, C = candidates, K = neighbours

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import numpy as np

from pairloom.models.arrays import Indices
from pairloom.models.batches.relations import Edges, Relations
from pairloom.models.mining.lists import Search, Searcher
from pairloom.models.mining.neighbours import Neighbours
from pairloom.models.mining.positives import KnownPositives
from pairloom.storage.corpus import Corpus, Snapshot
from pairloom.storage.embeddings import EmbeddingStore
from pairloom.tasks.engine.workers import workers
from pairloom.tasks.items import read_items
from pairloom.tasks.pipeline import Pipeline

ROWS = 8192
"""Rows of a job: a worker takes seconds for them among a million items, and what it finds is a few megabytes."""


@dataclass(frozen=True)
class Block:
    """Some rows to search for, in the order of the training items."""

    direction: str
    rows_Q: Indices
    among_C: Indices | None


@contextmanager
def searching(pipeline: Pipeline, model_id: str, snapshot: Snapshot, relations: Relations) -> Iterator[Search | None]:
    """A search by the workers of the pipeline's cluster; None where there is none, and this process searches itself.

    `relations` are those of the training items.
    """
    if pipeline.engine.kind == "local":
        yield None
        return
    opened = partial(opened_searcher, pipeline, model_id, snapshot.number, relations.edges)
    with workers(pipeline.engine, "mine", opened) as run:

        def search(
            direction: str, rows_Q: Indices, among_C: Indices | None, progress: Callable[[int], None] | None
        ) -> Neighbours:
            blocks = (Block(direction, rows_Q[at : at + ROWS], among_C) for at in range(0, len(rows_Q), ROWS))
            indices, scores = [], []
            for block, found in run(blocks):
                indices.append(found.indices_QK)
                scores.append(found.scores_QK)
                if progress is not None:
                    progress(len(block.rows_Q))
            return Neighbours(np.concatenate(indices), np.concatenate(scores))

        yield search


def opened_searcher(
    pipeline: Pipeline, model_id: str, snapshot_number: int, edges: Edges | None
) -> Callable[[Block], Neighbours]:
    """What searches all training items of a snapshot by a model's vectors, which are read once."""
    corpus = Corpus(pipeline.folder)
    snapshot = corpus.log.read(snapshot_number)
    relations = read_items(corpus, snapshot, "train").relations
    if edges is not None:
        relations = relations.with_edges(edges)
    vectors = EmbeddingStore(pipeline.folder, model_id).matrices(snapshot, relations.item_ids)
    searcher = Searcher(*vectors, KnownPositives(relations), pipeline.mining.range_max)
    return lambda block: searcher(block.direction, block.rows_Q, block.among_C)
