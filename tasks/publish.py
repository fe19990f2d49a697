"""Publish: everything on disk and held, and then, in a step of its own, one small record that readers see."""

from collections.abc import Collection
from datetime import UTC, datetime
from itertools import chain

from pairloom.storage.corpus import Corpus, Snapshot
from pairloom.storage.embeddings import EmbeddingStore
from pairloom.storage.files import digest_files
from pairloom.storage.modelstore import ModelStore
from pairloom.storage.records import StaleWriterError
from pairloom.storage.releases import Release, Training, release_log
from pairloom.storage.runs import Run
from pairloom.storage.schema import HUBNESS
from pairloom.storage.table.vectors import VectorTable
from pairloom.tasks.evaluation.retained import best_measured
from pairloom.tasks.lineage import lineage
from pairloom.tasks.pipeline import Pipeline
from pairloom.tasks.refs import CutoffsRef, Plan, Proposal, ReleaseRef, TableRef, Verdict
from pairloom.tasks.stage import stage


@stage()
def propose(pipeline: Pipeline, plan: Plan, verdict: Verdict | None, table: TableRef, fitting: CutoffsRef) -> Proposal:
    """The release that a checked table makes, with all it names on the disk and held; no reader sees it yet.

    Raises StaleWriterError where another run released in the meantime.
    """
    folder, log = pipeline.folder, release_log(pipeline.folder).as_listed()
    # Whoever publishes after that takes this number away.
    number = log.next_number()
    champion = log.current()
    if (champion.number if champion else None) != plan.champion:
        raise StaleWriterError(f"pipeline {pipeline.name!r} was released by another run in the meantime: run again")
    known = champion.files if champion else {}
    vectors = VectorTable(folder / table.path)
    if vectors.version != table.version:
        raise StaleWriterError(f"the vector table of model {table.model_id} changed since it was checked: run again")
    vectors.sync(known)
    snapshot = Corpus(folder).log.read(table.snapshot)
    metrics, intervals = served_metrics(champion, verdict)
    measured, models = plan.measured(table.model_id, verdict), ModelStore(folder)
    named = [path for model_id in sorted({table.model_id, measured}) for path in models.files(model_id)]
    release = Release(
        number=number,
        files=digest_files(folder, chain(named, vectors.files()), known),
        created_at=datetime.now(UTC),
        snapshot=snapshot.number,
        snapshot_digest=snapshot.digest,
        model_id=table.model_id,
        measured_model=measured if measured != table.model_id else None,
        table=table.path,
        table_version=table.version,
        rows=table.rows,
        dimension=table.dimension,
        max_side=pipeline.ingest.max_side,
        trim=snapshot.trim,
        keep=pipeline.columns.types,
        cutoffs=fitting.cutoffs,
        too_few=fitting.too_few,
        hubness=pipeline.corrects_hubs and HUBNESS in vectors.schema.names,
        index=table.index,
        metrics=metrics,
        intervals=intervals,
        training=last_training(plan, snapshot, champion, verdict),
        reason=plan.reason,
        lineage=lineage(pipeline),
        best=best_measured(plan, champion, verdict),
    )
    vectors.upkeep.tag(release.number, release.table_version)
    return Proposal(release=release, before=champion)


@stage()
def publish(pipeline: Pipeline, plan: Plan, proposal: Proposal) -> ReleaseRef:
    """Make a proposal the release that is served. Raises StaleWriterError where another run was faster."""
    release = proposal.release
    release_log(pipeline.folder).publish(release)
    Run(pipeline.folder, plan.run_id).sweep()
    return ReleaseRef(
        number=release.number, model_id=release.model_id, measured_model=release.measured_model, rows=release.rows
    )


def forget(pipeline: Pipeline, proposal: Proposal, parts: Collection[str]) -> None:
    """Have the next night embed some parts of a proposal's snapshot, given by their digests, again."""
    store = EmbeddingStore(pipeline.folder, proposal.release.model_id)
    for part in Corpus(pipeline.folder).log.read(proposal.release.snapshot).parts if parts else ():
        if part.digest in parts:
            store.forget(part)


def served_metrics(
    champion: Release | None, verdict: Verdict | None
) -> tuple[dict[str, float], dict[str, tuple[float, float]]]:
    """Metrics of the model that serves from here on and their intervals, of tonight where there was a challenger."""
    if verdict and verdict.passed:
        return verdict.metrics, verdict.intervals
    if verdict and verdict.champion_metrics:
        return verdict.champion_metrics, verdict.champion_intervals
    return (champion.metrics, champion.intervals) if champion else ({}, {})


def last_training(plan: Plan, snapshot: Snapshot, champion: Release | None, verdict: Verdict | None) -> Training:
    """Tonight's training where there was one, held or not; else the one that the champion remembers.

    Of a challenger that a person approved, its own.
    """
    if plan.training:
        return plan.training
    if verdict is None:
        assert champion is not None, "without a champion there is a challenger"
        return champion.training
    return Training(
        config_digest=plan.training_digest,
        items=snapshot.rows,
        snapshot=snapshot.number,
        trained_at=datetime.now(UTC),
        verdict="released" if verdict.passed else "held",
    )
