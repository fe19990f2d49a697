"""What tonight is for: nothing, embedding the new rows with the champion, or training a challenger."""

from datetime import UTC, datetime
from itertools import takewhile
from typing import Literal

from pairloom.storage.corpus import Corpus, newer_items
from pairloom.storage.digest import digest
from pairloom.storage.files import DamagedError, damage
from pairloom.storage.releases import Release, ReleaseLog, Training, release_log, stays_back
from pairloom.storage.repair import pass_damaged_manifests
from pairloom.storage.runs import Run
from pairloom.storage.sources.given_pairs import given_digest
from pairloom.tasks.evaluation.retained import best_retained
from pairloom.tasks.pipeline import Pipeline
from pairloom.tasks.refs import Plan, SnapshotRef, Verdict
from pairloom.tasks.stage import stage


@stage()
def decide(pipeline: Pipeline, snapshot: SnapshotRef) -> Plan:
    """Tonight's plan.

    Raises RuntimeError where the corpus is empty though its rows are believed, DamagedError where the champion is
    damaged.
    """
    if snapshot.rows == 0 and not snapshot.rows_held:
        raise RuntimeError(f"pipeline {pipeline.name!r} has no items: {no_items(snapshot)}")
    log = release_log(pipeline.folder)
    pass_damaged_manifests(pipeline.folder)
    release = log.current()
    shaped = training_digest(pipeline)
    run_id = digest([snapshot.digest, release.number if release else None, shaped])
    verdict = Run(pipeline.folder, run_id).read(verdict_name(pipeline), Verdict)
    reason = retrain_reason(pipeline, snapshot, release, datetime.now(UTC), shaped)
    served = release is not None and release.snapshot_digest == snapshot.digest
    back = stays_back(log, release, snapshot.digest, shaped) if release else None
    why = "nothing new" if served else "new rows, too few to retrain"
    if snapshot.rows_held:
        reason, why = "", snapshot.rows_held
    elif release and back:
        reason, why = "", stayed_back(back, release)
    elif reason and served and verdict and not verdict.passed:
        reason, why = "", "nothing new since the challenger was held"
    nothing = served or back or snapshot.rows_held
    action: Literal["nothing", "embed", "retrain"] = "retrain" if reason else "nothing" if nothing else "embed"
    if release and action != "nothing":
        require_released_model(pipeline, release)
    best = best_retained(retained(log, release.number, pipeline)) if reason and release else None
    return Plan(
        action=action,
        reason=reason or why,
        run_id=run_id,
        training_digest=shaped,
        snapshot=snapshot.number,
        champion=release.number if release else None,
        champion_model=release.model_id if release else None,
        champion_rows=release.rows if release else 0,
        champion_metrics=release.metrics if release else {},
        champion_intervals=release.intervals if release else {},
        best=best.number if best else None,
        best_model=best.model_id if best else None,
        brings_rows=release is not None and not served and not back and not snapshot.rows_held,
        rows_held=bool(snapshot.rows_held),
    )


def no_items(snapshot: SnapshotRef) -> str:
    """Why a corpus is empty."""
    if not snapshot.rows_seen.get("seen"):
        return "there were no rows"
    # Rows that `where` leaves out are counted only.
    listed = sum(each.rows for each in snapshot.rejected if each.outcome == "filtered")
    left_out = snapshot.rows_seen["filtered"] - listed
    why = [f"{left_out:,} filtered by `where`"] if left_out else []
    said = "; ".join([*why, *filter(None, [snapshot.explained])])
    return f"of {snapshot.rows_seen['seen']:,} rows none became one: {said}"


def require_released_model(pipeline: Pipeline, release: Release) -> None:
    """Raises DamagedError where the champion is not the model that was released: what it embeds nobody could search."""
    if wrong := damage(pipeline.folder, release.model_files, contents=True):
        raise DamagedError(
            f"the model of release {release.number} is not the one released: {'; '.join(wrong[:3])}. Put it back, or "
            "`pairloom rollback` to a release of another model"
        )


def stayed_back(number: int, release: Release) -> str:
    """Why `release`, a rollback, stands although the release `number` that it went back behind would bring more."""
    return (
        f"release {number} was rolled back to release {release.rolled_back_to}, and nothing is new since: it stays "
        "back until the sources or the training configuration change, or "
        f"`pairloom rollback {number}` brings it again"
    )


def retained(log: ReleaseLog, newest: int, pipeline: Pipeline) -> list[Release]:
    """The releases that can be served again, newest first."""
    oldest = newest - pipeline.retention.releases
    return [*takewhile(lambda release: release.number > oldest, log.newest_first())]


def retrain_reason(
    pipeline: Pipeline, snapshot: SnapshotRef, release: Release | None, now: datetime, shaped: str
) -> str:
    """Why tonight trains a challenger; empty where it does not. `shaped` is tonight's `training_digest`."""
    changed = change_reason(pipeline, release, shaped)
    if release is None or changed:
        return changed
    last, due = release.training, pipeline.retrain
    new = newer_than_training(pipeline, snapshot, last)
    if new > 0 and new >= due.min_new_fraction * last.items:
        return f"{new} items ({new / last.items:.1%}) are newer than the last training"
    if (now.date() - last.trained_at.date()).days >= due.every_nights:
        return f"the last training was on {last.trained_at.date()}"
    return ""


def change_reason(pipeline: Pipeline, release: Release | None, shaped: str) -> str:
    """Why tonight trains a challenger whatever the sources bring; empty where that depends on them, or on the date."""
    if release is None:
        return "first release"
    if release.training.config_digest == shaped:
        return ""
    also = " or the given pairs" if pipeline.pairs else ""
    return f"the training configuration{also} changed"


def newer_than_training(pipeline: Pipeline, snapshot: SnapshotRef, last: Training) -> int:
    """How many items the last training has not seen as they are now.

    Where it is unknown what it was trained on, how many more items there are.
    """
    corpus = Corpus(pipeline.folder)
    try:
        trained = corpus.log.read(last.snapshot) if last.snapshot is not None else None
    except (ValueError, DamagedError):
        trained = None
    if trained is None:
        return snapshot.rows - last.items
    return newer_items(corpus, corpus.log.read(snapshot.number), trained)


def training_digest(pipeline: Pipeline) -> str:
    """Digest of what shapes a model beside the items: the configuration, and what the files of given pairs hold."""
    blocks = (pipeline.model, pipeline.mining, *pipeline.objective)
    shape = [pipeline.training.shape, *(block.model_dump(mode="json") for block in blocks)]
    return digest([*shape, *filter(None, [given_digest(pipeline.pairs)])])


def verdict_name(pipeline: Pipeline) -> str:
    """Under which name a run keeps its verdict: another gate or other measures judge the same challenger anew."""
    blocks = (pipeline.gate, pipeline.evaluation)
    return f"evaluate-{digest([block.model_dump(mode='json') for block in blocks])}"


def snapshot_ref(pipeline: Pipeline) -> SnapshotRef:
    """The corpus as the last ingest left it, for a stage that runs on its own."""
    snapshot = Corpus(pipeline.folder).current()
    return SnapshotRef(number=snapshot.number, digest=snapshot.digest, rows=snapshot.rows, rows_seen={})
