"""Ingest: the sources' new rows become items of the corpus."""

from dataclasses import asdict

from pairloom.storage.corpus import EMPTY, Corpus, Snapshot
from pairloom.storage.files import DamagedError
from pairloom.storage.ingest import Ingest
from pairloom.storage.quarantine import RejectedRows, too_many
from pairloom.storage.releases import release_log
from pairloom.tasks.engine.decoding import decoding
from pairloom.tasks.pipeline import Pipeline
from pairloom.tasks.refs import SnapshotRef
from pairloom.tasks.stage import report_progress, stage


@stage(retries=2)
def ingest(pipeline: Pipeline) -> SnapshotRef:
    """Read all sources, write what differs, commit a snapshot. Nothing differs: the snapshot that is there."""
    corpus = Corpus(pipeline.folder)
    with decoding(pipeline) as decoder:
        run = Ingest(corpus, pipeline.columns.types, pipeline.ingest, decoder)
        snapshot, counts = run.run(
            pipeline.sources_of_the_night(),
            pipeline.columns,
            lambda seen: show(seen, run.base.rows),
            since=released_snapshot(pipeline, corpus),
        )
    rejected = tuple(RejectedRows(corpus, snapshot).counts(pipeline.sources))
    return SnapshotRef(
        number=snapshot.number,
        digest=snapshot.digest,
        rows=snapshot.rows,
        rows_seen=asdict(counts),
        removals_held=run.warnings,
        rejected=rejected,
        rows_held=too_many(rejected, counts.seen, pipeline.ingest.max_rejected),
    )


def show(seen: int, expected: int) -> None:
    """Pass on how many rows were seen; there may be as many as there were items before, or more."""
    report_progress("ingest", seen, max(seen, expected) if expected else None)


def released_snapshot(pipeline: Pipeline, corpus: Corpus) -> Snapshot | None:
    """What rows are counted against, so that a night which an earlier one began says all that it brings.

    None, for the last snapshot, where that of the release can't be read any more.
    """
    release = release_log(pipeline.folder).current()
    try:
        return corpus.log.read(release.snapshot) if release else EMPTY
    except (ValueError, DamagedError):
        return None
