"""Index: a candidate version of a model's vector table, complete, indexed and checked, that no reader sees yet."""

import logging

from pairloom.models.fitness import UnfitModelError
from pairloom.storage.checked import CheckedFiles
from pairloom.storage.corpus import Corpus
from pairloom.storage.files import DamagedError
from pairloom.storage.table.candidate import Candidate, indexed_and_checked
from pairloom.storage.table.vectors import VectorTable, table_name
from pairloom.tasks.indexing.begun import anew, continued, released_before
from pairloom.tasks.pipeline import Pipeline
from pairloom.tasks.refs import EmbeddingsRef, TableRef
from pairloom.tasks.stage import stage

logger = logging.getLogger(__name__)


@stage(retries=2)
def index(pipeline: Pipeline, vectors: EmbeddingsRef) -> TableRef:
    """Bring the table up to the snapshot's items. Raises UnfitModelError where a check of the table fails."""
    table, found = candidate(pipeline, vectors)
    if found.check.problems:
        problems = "; ".join(found.check.problems)
        raise UnfitModelError(f"the vector table of model {vectors.model_id} failed its check: {problems}")
    return TableRef(
        model_id=vectors.model_id,
        snapshot=vectors.snapshot,
        path=table_name(vectors.model_id),
        version=table.version,
        rows=found.check.rows,
        dimension=vectors.dimension,
        index=found.kind,
        ann_recall=found.check.ann_recall if found.kind else None,
    )


def candidate(pipeline: Pipeline, vectors: EmbeddingsRef) -> tuple[VectorTable, Candidate]:
    """The table, checked: from the model's newest release where that is whole, or anew."""
    rows = Corpus(pipeline.folder).log.read(vectors.snapshot).rows
    if release := released_before(pipeline, vectors):
        try:
            if wrong := CheckedFiles(pipeline.folder).wrong(release.table_files):
                raise DamagedError(f"the table of release {release.number} is damaged: {'; '.join(wrong[:3])}")
            table = continued(pipeline, release, vectors)
            return table, indexed_and_checked(table, pipeline.index, expected_rows=rows)
        except DamagedError as error:
            # What stands in it can be made again.
            logger.warning("the table is made anew: %s", error)
    table = anew(pipeline, vectors)
    return table, indexed_and_checked(table, pipeline.index, expected_rows=rows)
