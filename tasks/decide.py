"""What tonight is for: nothing, embedding the new rows with the champion, or training a challenger."""

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Literal

from pairloom.storage.approvals import Approval, ended, last_approval
from pairloom.storage.changes import changes, newer_items
from pairloom.storage.checked import damage_now
from pairloom.storage.corpus import Corpus
from pairloom.storage.digest import digest
from pairloom.storage.files import DamagedError
from pairloom.storage.releases import Release, Training, kept_releases, release_log, stays_back
from pairloom.storage.repair import pass_damaged_manifests
from pairloom.storage.runs import Run
from pairloom.storage.sources.given_pairs import given_digest
from pairloom.tasks.evaluation.retained import best_retained
from pairloom.tasks.golden import require_answerable
from pairloom.tasks.pipeline import Pipeline
from pairloom.tasks.refs import Plan, SnapshotRef, Verdict
from pairloom.tasks.settle import settle
from pairloom.tasks.stage import stage
from pairloom.tasks.training.champion import towers

LATER = ("keywords", "moved_copies")
"""Keys of `model` that say nothing where they are left out."""


@stage()
def decide(pipeline: Pipeline, snapshot: SnapshotRef) -> Plan:
    """Tonight's plan.

    Raises RuntimeError where the corpus is empty though its rows are believed, DamagedError where the champion is
    damaged, ValueError where golden queries can't be answered.
    """
    if snapshot.rows == 0 and not snapshot.rows_held:
        raise RuntimeError(f"pipeline {pipeline.name!r} has no items: {no_items(snapshot)}")
    log = release_log(pipeline.folder).as_listed()
    pass_damaged_manifests(log)
    release = log.current()
    shaped = training_digest(pipeline)
    run = run_id(snapshot.digest, release, shaped)
    verdict = Run(pipeline.folder, run).read(verdict_name(pipeline), Verdict)
    asked = last_approval(pipeline.folder)
    over = ended(pipeline.folder, asked) if asked else ""
    again = asked is not None and same_challenger(asked, snapshot, release, shaped)
    reason = "" if again else retrain_reason(pipeline, snapshot, last_tried(release, asked), datetime.now(UTC), shaped)
    brings = brings_items(pipeline, snapshot)
    served = release is not None and brings(release)
    back = stays_back(log, release, brings, shaped) if release else None
    why = "nothing new" if served else "new rows, too few to retrain" if release else "nothing is served yet"
    if snapshot.rows_held:
        reason, why = "", snapshot.rows_held
    elif release and back:
        reason, why = "", stayed_back(back, release)
    elif reason and served and verdict and not verdict.passed:
        reason, why = "", "nothing new since the challenger was held"
    nothing = served or back or snapshot.rows_held or not release
    action: Literal["nothing", "embed", "retrain"] = "retrain" if reason else "nothing" if nothing else "embed"
    # While a rollback stands, what waits can't be approved.
    telling = asked and action != "retrain" and not back and (again or not over or not release)
    if release and action != "nothing":
        require_released_model(pipeline, release)
        require_measured_model(pipeline, release)
    if action != "nothing":
        require_answerable(pipeline, snapshot.number)
    best = best_retained(kept_releases(log, pipeline.retention.releases)) if reason and release else None
    return Plan(
        action=action,
        reason=reason or why,
        run_id=run,
        training_digest=shaped,
        snapshot=snapshot.number,
        champion=release.number if release else None,
        champion_model=release.model_id if release else None,
        champion_measured=release.measured_model if release else None,
        champion_rows=release.rows if release else 0,
        champion_metrics=release.metrics if release else {},
        champion_intervals=release.intervals if release else {},
        best=best.number if best else None,
        best_model=best.measured if best else None,
        brings_rows=release is not None and not served and not back and not snapshot.rows_held,
        rows_held=bool(snapshot.rows_held),
        approval=(over or asked.waits(pipeline.name)) if asked and telling else "",
        waits=action == "nothing" and (not release or bool(telling and not over)),
    )


def hold_rows(plan: Plan, reason: str) -> Plan:
    """The plan of a night whose rows turned out not to be served well: they are held, and what is served stays."""
    return plan.model_copy(update={"rows_held": True, "reason": reason})


def brings_items(pipeline: Pipeline, snapshot: SnapshotRef) -> Callable[[Release], bool]:
    """Whether tonight's items are those of a release, though they were written anew: edits may have been taken back."""
    corpus = Corpus(pipeline.folder)

    def same(release: Release) -> bool:
        if release.snapshot_digest == snapshot.digest or release.rows != snapshot.rows:
            return release.snapshot_digest == snapshot.digest
        try:
            before, tonight = corpus.log.read(release.snapshot), corpus.log.read(snapshot.number)
        except (ValueError, DamagedError):
            return False
        alike = (before.keep, before.trim) == (tonight.keep, tonight.trim)
        return alike and not changes(corpus, before, tonight)

    return same


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
    if wrong := damage_now(pipeline.folder, release.model_files):
        raise DamagedError(
            f"the model of release {release.number} is not the one released: {'; '.join(wrong[:3])}. Put it back, or "
            "`pairloom rollback` to a release of another model"
        )


def require_measured_model(pipeline: Pipeline, release: Release) -> None:
    """Raises DamagedError where the model that was measured for a release, if another one serves, is not that one."""
    if wrong := damage_now(pipeline.folder, release.measured_files):
        raise DamagedError(
            f"the model that was measured for release {release.number} is not the one measured, so nothing can be "
            f"compared with it: {'; '.join(wrong[:3])}. Put it back, or `pairloom rollback` to a release of another "
            "model"
        )


def stayed_back(number: int, release: Release) -> str:
    """Why `release`, a rollback, stands although the release `number` that it went back behind would bring more."""
    return (
        f"release {number} was rolled back to release {release.rolled_back_to}, and nothing is new since: it stays "
        "back until the sources or the training configuration change, or "
        f"`pairloom rollback {number}` brings it again"
    )


def run_id(snapshot_digest: str, release: Release | None, shaped: str) -> str:
    """Names the work on a challenger: a night over the same corpus, release and configuration goes on with it."""
    return digest([snapshot_digest, release.number if release else None, shaped])


def retrain_reason(pipeline: Pipeline, snapshot: SnapshotRef, last: Training | None, now: datetime, shaped: str) -> str:
    """Why tonight trains a challenger; empty where it does not. `shaped` is tonight's `training_digest`."""
    changed = change_reason(pipeline, last, shaped)
    if last is None or changed:
        return changed
    due = pipeline.retrain
    new = newer_than_training(pipeline, snapshot, last)
    if new > 0 and new >= due.min_new_fraction * last.items:
        return f"{new} items ({new / last.items:.1%}) are newer than the last training"
    if (now.date() - last.trained_at.date()).days >= due.every_nights:
        return f"the last training was on {last.trained_at.date()}"
    return ""


def last_tried(release: Release | None, asked: Approval | None) -> Training | None:
    """The last training: that which the champion remembers, or of a later challenger that a person was asked about."""
    tried = [*([release.training] if release else []), *([asked.training] if asked else [])]
    return max(tried, key=lambda training: training.trained_at, default=None)


def same_challenger(asked: Approval, snapshot: SnapshotRef, release: Release | None, shaped: str) -> bool:
    """Whether a training tonight would only give again what a person was asked about."""
    champion = release.model_id if release else None
    tonight = (snapshot.digest, champion, shaped)
    return (asked.snapshot_digest, asked.champion_model, asked.training.config_digest) == tonight


def change_reason(pipeline: Pipeline, last: Training | None, shaped: str) -> str:
    """Why tonight trains a challenger whatever the sources bring; empty where that depends on them, or on the date."""
    if last is None:
        return "first release"
    if last.config_digest == shaped:
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
    """Digest of what shapes a model beside the items: the configuration, what its files and those of given pairs hold,
    and how pictures are cut; `auto` is what it was settled as."""
    pipeline = settle(pipeline)
    blocks = (pipeline.mining, *pipeline.objective)
    # How a model is exported doesn't shape it, nor why its architecture was taken. Roots that are older than the others
    # were shaped by none.
    told = towers(pipeline).items()
    model = {key: value for key, value in told if key not in ("export", "chosen") and (value or key not in LATER)}
    shape = [pipeline.training.shape, model, *(block.model_dump(mode="json") for block in blocks)]
    trim = "trim" if pipeline.ingest.trim else ""
    return digest([*shape, *filter(None, [given_digest(pipeline.pairs), trim])])


def verdict_name(pipeline: Pipeline) -> str:
    """Under which name a run keeps its verdict: another gate or other measures judge the same challenger anew."""
    # What the rows must be like judges no challenger.
    blocks = (pipeline.gate.model_dump(mode="json", exclude={"rows"}), pipeline.evaluation.model_dump(mode="json"))
    return f"evaluate-{digest([*blocks])}"


def snapshot_ref(pipeline: Pipeline) -> SnapshotRef:
    """The corpus as the last ingest left it, for a stage that runs on its own."""
    snapshot = Corpus(pipeline.folder).current()
    return SnapshotRef(number=snapshot.number, digest=snapshot.digest, rows=snapshot.rows, rows_seen={})
