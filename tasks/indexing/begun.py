"""The table that a night writes to, brought up to tonight's items: from the version that a release names, or anew."""

import logging
from collections.abc import Iterator

import pyarrow as pa

from pairloom.storage.corpus import Corpus, Snapshot
from pairloom.storage.embeddings import EmbeddingStore
from pairloom.storage.files import DamagedError
from pairloom.storage.modelstore import ModelStore
from pairloom.storage.releases import Release, release_log
from pairloom.storage.table.vectors import VectorTable
from pairloom.storage.training_texts import TrainingTexts
from pairloom.tasks.indexing.rows import PartIds, unlike, vector_rows
from pairloom.tasks.pipeline import Pipeline
from pairloom.tasks.refs import EmbeddingsRef

logger = logging.getLogger(__name__)


def continued(pipeline: Pipeline, release: Release, vectors: EmbeddingsRef) -> VectorTable:
    """The table as `release` names it, with what tonight's snapshot has otherwise: nothing else is written or read.

    Whatever was written to it since, by a night that was killed or by another program, has no effect. Raises
    DamagedError where the release's table, or its snapshot, is not whole.
    """
    corpus = Corpus(pipeline.folder)
    before, tonight = snapshot_of(corpus, release), corpus.log.read(vectors.snapshot)
    table = VectorTable.reopen(pipeline.folder, release.model_id, release.table_version, release.files)
    came = list(unlike(corpus, tonight, before))
    left = ids(unlike(corpus, before, tonight)) - ids(came)
    if left and (removed := table.delete(sorted(left))) != len(left):
        raise DamagedError(f"release {release.number} lacks {len(left) - removed} of the rows that left")
    write(pipeline, table, tonight, vectors, came)
    return table


def anew(pipeline: Pipeline, vectors: EmbeddingsRef) -> VectorTable:
    """A table of all of tonight's items; versions that releases name stay beside it."""
    corpus, keep = Corpus(pipeline.folder), pipeline.columns.types
    tonight = corpus.log.read(vectors.snapshot)
    table = VectorTable.create(pipeline.folder, vectors.model_id, dimension=vectors.dimension, keep=keep)
    write(pipeline, table, tonight, vectors, list(unlike(corpus, tonight)))
    return table


def released_before(pipeline: Pipeline, vectors: EmbeddingsRef) -> Release | None:
    """The newest release of the model, which a rollback may have made; None where there is none to continue.

    One with other metadata columns is none: what its rows hold in them was never read.
    """
    for release in release_log(pipeline.folder).newest_first():
        if release.model_id == vectors.model_id:
            return release if release.keep == pipeline.columns.types else None
    return None


def snapshot_of(corpus: Corpus, release: Release) -> Snapshot:
    """The snapshot that a release serves. Raises DamagedError where it isn't there any more."""
    try:
        snapshot = corpus.log.read(release.snapshot)
    except ValueError as error:
        raise DamagedError(f"release {release.number}: {error}") from error
    if snapshot.digest != release.snapshot_digest:
        raise DamagedError(f"snapshot {snapshot.number} is not the one of release {release.number}")
    return snapshot


def write(
    pipeline: Pipeline, table: VectorTable, snapshot: Snapshot, vectors: EmbeddingsRef, wanted: list[PartIds]
) -> None:
    """Write the `wanted` items to the table."""
    store = EmbeddingStore(pipeline.folder, vectors.model_id)
    texts = TrainingTexts(ModelStore(pipeline.folder).path(vectors.model_id))
    rows = vector_rows(Corpus(pipeline.folder), snapshot, store, wanted, table.schema, texts)
    table.upsert(pa.RecordBatchReader.from_batches(table.schema, rows))


def ids(items: Iterator[PartIds] | list[PartIds]) -> set[str]:
    """Ids of all of them."""
    return {item_id for _, own in items for item_id in own.to_pylist()}
