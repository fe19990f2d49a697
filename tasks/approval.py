"""Approval: a challenger that passed the gate waits for a person's word, and what follows from that word."""

from datetime import UTC, datetime, timedelta

from pairloom.storage.approvals import Approval, approval_log, ended, last_approval
from pairloom.storage.corpus import Corpus
from pairloom.storage.files import DamagedError
from pairloom.storage.modelstore import ModelStore
from pairloom.storage.releases import Training, kept_releases, release_log, stays_back
from pairloom.tasks.decide import brings_items, snapshot_ref, stayed_back, training_digest
from pairloom.tasks.evaluation.retained import best_retained, headline_metrics
from pairloom.tasks.pipeline import Pipeline
from pairloom.tasks.refs import ModelRef, Plan, Refit, Verdict


def wait(pipeline: Pipeline, plan: Plan, verdict: Verdict) -> Verdict:
    """The verdict on a challenger that passed: held until a person approves it, and remembered with all that takes.

    It takes the place of a challenger that waits already. One that was refused stays so.
    """
    serving = verdict.serving
    assert serving is not None, "what passed is a model"
    approval, log = last_approval(pipeline.folder), approval_log(pipeline.folder)
    if approval is None or (approval.model_id, approval.run_id) != (serving, plan.run_id):
        snapshot, now = Corpus(pipeline.folder).log.read(plan.snapshot), datetime.now(UTC)
        approval = Approval(
            number=log.next_number(),
            files={},
            model_id=serving,
            measured_model=verdict.model_id if serving != verdict.model_id else None,
            run_id=plan.run_id,
            since=now,
            until=now + timedelta(hours=pipeline.gate.approval_hours),
            champion=plan.champion,
            champion_model=plan.champion_model,
            snapshot_digest=snapshot.digest,
            training=Training(
                config_digest=plan.training_digest,
                items=snapshot.rows,
                snapshot=snapshot.number,
                trained_at=now,
                verdict="released",
            ),
            trained_because=plan.reason,
            metrics=verdict.metrics,
            intervals=verdict.intervals,
            comparisons=verdict.comparisons,
            figures=figures(verdict),
        )
        log.publish(approval)
    said = ended(pipeline.folder, approval) or approval.waits(pipeline.name)
    return verdict.model_copy(update={"passed": False, "reasons": (said,)})


def figures(verdict: Verdict) -> str:
    """The headline metrics of a challenger, beside the champion's where there is one."""
    said = [
        f"{name} {verdict.metrics[name]:.4f}"
        + (f" (the champion's is {verdict.champion_metrics[name]:.4f})" if name in verdict.champion_metrics else "")
        for name in headline_metrics(verdict.metrics)
    ]
    return ", ".join(said) or "nothing was measured"


def plan_approved(pipeline: Pipeline, approval: Approval, *, by: str, note: str) -> Plan:
    """What a person's approval is for: the rows that are served, or the first that are to be, by the model that waits.

    Raises DamagedError where that model is damaged, ValueError where a rollback stands that its release would end.
    """
    try:
        for model_id in {approval.model_id, approval.measured}:
            ModelStore(pipeline.folder).whole(model_id)
    except (ValueError, DamagedError) as error:
        remedy = f"put it back, or `pairloom refuse -p {pipeline.name}`"
        raise DamagedError(f"what waits for approval can't be released: {error}; {remedy}") from error
    log, snapshot = release_log(pipeline.folder), snapshot_ref(pipeline)
    release = log.current()
    if release and (back := stays_back(log, release, brings_items(pipeline, snapshot), training_digest(pipeline))):
        raise ValueError(f"{stayed_back(back, release)}; until then model {approval.model_id} can't be released either")
    best = best_retained(kept_releases(log, pipeline.retention.releases)) if release else None
    return Plan(
        action="retrain",
        reason=f"{approval.trained_because}; approved by {by}{f': {note}' if note else ''}",
        run_id=approval.run_id,
        training_digest=approval.training.config_digest,
        # Rows that came later and were held come in by no word on a model.
        snapshot=release.snapshot if release else snapshot.number,
        champion=release.number if release else None,
        champion_model=release.model_id if release else None,
        champion_measured=release.measured_model if release else None,
        champion_rows=release.rows if release else 0,
        champion_metrics=release.metrics if release else {},
        champion_intervals=release.intervals if release else {},
        best=best.number if best else None,
        best_model=best.measured if best else None,
        brings_rows=False,
        training=approval.training,
    )


def judge_approved(pipeline: Pipeline, plan: Plan, approval: Approval) -> Verdict:
    """The gate's word on a model that a person approved: its night's, or a new one where another model serves since."""
    said = f"model {approval.model_id} is model {approval.measured}, which was measured, after a training on all items"
    refit = Refit(model_id=approval.model_id, serves=True, said=said) if approval.measured_model else None
    if plan.champion_model == approval.champion_model:
        return Verdict(
            passed=True,
            model_id=approval.measured,
            metrics=approval.metrics,
            intervals=approval.intervals,
            champion_metrics={},
            reasons=(),
            comparisons=approval.comparisons,
            refit=refit,
        )
    # torch, for what is measured again.
    from pairloom.tasks.evaluation.contest import contest

    measured = ModelRef(model_id=approval.measured, steps=0, samples=0, seconds=0, loss=0)
    return contest(pipeline, plan, measured).model_copy(update={"refit": refit})
