"""Ingest: the sources' new rows become items of the corpus."""

from dataclasses import asdict

from pairloom.storage.corpus import Corpus
from pairloom.storage.ingest import Ingest
from pairloom.tasks.pipeline import Pipeline
from pairloom.tasks.refs import SnapshotRef
from pairloom.tasks.stage import report_progress, stage


@stage(retries=2)
def ingest(pipeline: Pipeline) -> SnapshotRef:
    """Read all sources, write what is new, commit a snapshot. Nothing new: the snapshot that is there."""
    run = Ingest(Corpus(pipeline.folder), pipeline.columns.types, pipeline.ingest)
    snapshot, counts = run.run(pipeline.sources, pipeline.columns, lambda seen: report_progress("ingest", seen))
    return SnapshotRef(number=snapshot.number, digest=snapshot.digest, rows=snapshot.rows, rows_seen=asdict(counts))
