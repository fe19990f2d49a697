"""What a release will serve: all items embedded by one model, in a table that is indexed and checked."""

from pairloom.flows.placement import placed
from pairloom.models.fitness import UnfitModelError
from pairloom.storage.corpus import Corpus
from pairloom.storage.table.vectors import VectorTable
from pairloom.tasks.embed import embed
from pairloom.tasks.index import index
from pairloom.tasks.pipeline import Pipeline
from pairloom.tasks.refs import EmbeddingsRef, TableRef


def build(pipeline: Pipeline, snapshot: int, model_id: str) -> TableRef:
    """The candidate table of one model. Raises UnfitModelError where vectors are no numbers or the check fails."""
    vectors = placed(embed, pipeline)(pipeline, snapshot, model_id)
    try:
        return index(pipeline, vectors)
    except RuntimeError as error:
        if fails_check(pipeline, vectors):
            raise UnfitModelError(str(error)) from error
        raise


def fails_check(pipeline: Pipeline, vectors: EmbeddingsRef) -> bool:
    """Whether the table itself is what made `index` fail, rather than a disk, say."""
    table = VectorTable.create_or_open(
        pipeline.folder, vectors.model_id, dimension=vectors.dimension, keep=pipeline.columns.types
    )
    rows = Corpus(pipeline.folder).log.read(vectors.snapshot).rows
    return bool(table.check(pipeline.index, expected_rows=rows).problems)
