"""Collect: what no kept release, snapshot or run needs any more goes, and the disk holds what is kept."""

import logging

from pairloom.storage.corpus import Corpus
from pairloom.storage.garbage import Found, collect_garbage, find_garbage
from pairloom.storage.releases import release_log
from pairloom.tasks.decide import run_id, training_digest
from pairloom.tasks.pipeline import Pipeline
from pairloom.tasks.refs import CollectedRef, Plan
from pairloom.tasks.stage import report_progress, stage

logger = logging.getLogger(__name__)


@stage()
def collect(pipeline: Pipeline, plan: Plan) -> CollectedRef:
    """Delete what a night leaves that nothing needs. Where that fails, the night has ended all the same."""
    try:
        return collected(collect_now(pipeline, plan.training_digest))
    except (OSError, ValueError, RuntimeError) as error:
        logger.warning("no garbage is collected tonight: %s", error)
        return CollectedRef(files=0, bytes=0, kept=(str(error),))


def collect_now(pipeline: Pipeline, shaped: str) -> Found:
    """Delete it and say what went. `shaped` is the `training_digest` that the next night's is expected to be."""
    found = collect_garbage(
        pipeline.folder,
        pipeline.retention,
        current_runs(pipeline, shaped),
        lambda done, total: report_progress("collect", done, total),
    )
    for sentence in found.kept:
        logger.warning("what it may have named is kept: %s", sentence)
    return found


def would_collect(pipeline: Pipeline) -> Found:
    """What `collect_now` would delete."""
    return find_garbage(pipeline.folder, pipeline.retention, current_runs(pipeline, training_digest(pipeline)))


def current_runs(pipeline: Pipeline, shaped: str) -> set[str]:
    """The run that a night over the same corpus would go on with."""
    return {run_id(Corpus(pipeline.folder).current().digest, release_log(pipeline.folder).current(), shaped)}


def collected(found: Found) -> CollectedRef:
    """What went, counted."""
    files, size = (sum(getattr(each, name) for each in found.garbage) for name in ("files", "bytes"))
    return CollectedRef(files=files, bytes=size, kept=found.kept)
