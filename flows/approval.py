"""A person's word on the challenger that waits: approved, it is released as any other; refused, it is held."""

from pathlib import Path

from pairloom.flows.build import build
from pairloom.flows.outcome import Night
from pairloom.storage.approvals import ended, refuse, require_waiting
from pairloom.storage.releases import release_log
from pairloom.tasks.approval import judge_approved, plan_approved
from pairloom.tasks.decide import snapshot_ref
from pairloom.tasks.pipeline import Pipeline
from pairloom.tasks.publish import publish
from pairloom.tasks.stage import clock


def approve_waiting(pipeline: Pipeline, *, by: str, note: str = "") -> Night:
    """Release what waits: `released`, or `held` where the gate or the check of its table finds it unfit by now.

    Raises ValueError where nothing waits. Killed at any point, it ends the same when it is called again.
    """
    seconds, approval = clock(), require_waiting(pipeline.folder)
    plan = plan_approved(pipeline, approval, by=by, note=note)
    verdict, built, release = judge_approved(pipeline, plan, approval), None, None
    if verdict.passed:
        built = build(pipeline, plan, verdict, approval.model_id)
        if built.unfit:
            verdict = verdict.model_copy(update={"passed": False, "reasons": (built.unfit,)})
        elif built.fit:
            release = publish(pipeline, plan, built.fit)
    if not verdict.passed:
        refuse(pipeline.folder, approval, by="the gate", reason="; ".join(verdict.reasons))
    return Night.ended(pipeline, snapshot_ref(pipeline), plan, verdict, built, release, None, seconds)


def refuse_waiting(folder: Path, *, by: str, note: str = "") -> Night:
    """Hold what waits in the pipeline that lives in `folder`. Raises ValueError where nothing does."""
    refused = refuse(folder, require_waiting(folder), by=by, reason=note)
    release = release_log(folder).current()
    return Night(
        pipeline=folder.name,
        outcome="held",
        release=release.number if release else None,
        model_id=release.model_id if release else None,
        measured_model=release.measured_model if release else None,
        reason=ended(folder, refused),
        rows={"served": release.rows if release else 0},
        metrics=refused.metrics,
        intervals=refused.intervals,
        comparisons=refused.comparisons,
        trained=refused.measured,
        seconds={},
    )
