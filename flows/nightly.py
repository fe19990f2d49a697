"""The night: from new rows to a release. The whole project on one screen."""

from pairloom.flows.build import build, build_challenger
from pairloom.flows.outcome import Night
from pairloom.flows.placement import other_pool, placed
from pairloom.storage.asked_once import asked_once
from pairloom.tasks.admit import admit
from pairloom.tasks.approval import wait
from pairloom.tasks.collect import collect
from pairloom.tasks.decide import decide, hold_rows
from pairloom.tasks.embed import embed
from pairloom.tasks.evaluate import evaluate, hold
from pairloom.tasks.ingest import ingest
from pairloom.tasks.mine import mine
from pairloom.tasks.pipeline import Pipeline
from pairloom.tasks.publish import publish
from pairloom.tasks.readiness import require_readiness
from pairloom.tasks.refit import refit
from pairloom.tasks.settle import settle
from pairloom.tasks.stage import clock
from pairloom.tasks.tracking.track import track
from pairloom.tasks.train import train
from pairloom.tasks.verify import verify_when_due


@asked_once()
def nightly(pipeline: Pipeline) -> Night:
    """Run one night of one pipeline. What readers see changes in `publish` only, by one small record."""
    seconds = clock()
    if not other_pool("train", pipeline):
        require_readiness(pipeline)

    snapshot = ingest(pipeline)
    pipeline = settle(pipeline)
    plan = decide(pipeline, snapshot)
    pairs = verdict = built = release = None

    if plan.rival and plan.action != "nothing":
        placed(embed, pipeline)(pipeline, plan.snapshot, plan.rival)
    if plan.brings_rows:
        plan = plan.after(admit(pipeline, plan))

    if plan.action == "retrain":
        pairs = placed(mine, pipeline)(pipeline, plan)
        challenger = placed(train, pipeline)(pipeline, plan, pairs)
        verdict = placed(evaluate, pipeline)(pipeline, plan, challenger)

    if verdict and verdict.passed and verdict.model_id:
        if pipeline.training.refit:
            verdict = placed(refit, pipeline)(pipeline, plan, verdict)
        built = build_challenger(pipeline, plan, verdict)
        verdict = built.verdict or verdict
        if built.unfit:
            verdict = hold(pipeline, plan, verdict, built.unfit)
        elif pipeline.gate.approval == "person":
            verdict, built = wait(pipeline, plan, verdict), None
    if plan.champion_model and plan.brings_rows and not (built and built.fit):
        built = build(pipeline, plan, verdict, plan.champion_model)
        if built.unfit:
            plan = hold_rows(plan, built.unfit)
    if built and built.fit:
        release = publish(pipeline, plan, built.fit)

    track(pipeline, plan, verdict, release)
    verified = verify_when_due(pipeline)
    garbage = collect(pipeline, plan)

    return Night.ended(pipeline, snapshot, plan, verdict, built, release, pairs, seconds, verified, garbage)
