"""The night: from new rows to a release. The whole project on one screen."""

from pairloom.flows.build import build
from pairloom.flows.outcome import Night
from pairloom.flows.placement import other_pool, placed
from pairloom.models.fitness import UnfitModelError
from pairloom.tasks.collect import collect
from pairloom.tasks.decide import decide
from pairloom.tasks.embed import embed
from pairloom.tasks.evaluate import evaluate, hold
from pairloom.tasks.ingest import ingest
from pairloom.tasks.mine import mine
from pairloom.tasks.pipeline import Pipeline
from pairloom.tasks.publish import publish
from pairloom.tasks.readiness import require_readiness
from pairloom.tasks.stage import clock
from pairloom.tasks.train import train


def nightly(pipeline: Pipeline) -> Night:
    """Run one night of one pipeline. What readers see changes in `publish` only, by one small record."""
    seconds = clock()
    if not other_pool("train", pipeline):
        require_readiness(pipeline)

    snapshot = ingest(pipeline)
    plan = decide(pipeline, snapshot)
    pairs = verdict = table = release = None

    if plan.champion_model and plan.action != "nothing":
        placed(embed, pipeline)(pipeline, plan.snapshot, plan.champion_model)

    if plan.action == "retrain":
        pairs = mine(pipeline, plan)
        challenger = placed(train, pipeline)(pipeline, plan, pairs)
        verdict = evaluate(pipeline, plan, challenger)

    if verdict and verdict.passed and verdict.model_id:
        try:
            table = build(pipeline, plan.snapshot, verdict.model_id)
        except UnfitModelError as error:
            verdict = hold(pipeline, plan, verdict, str(error))
    if plan.champion_model and plan.brings_rows and not table:
        table = build(pipeline, plan.snapshot, plan.champion_model)
    if table:
        release = publish(pipeline, plan, table, verdict)

    garbage = collect(pipeline, plan)

    return Night.ended(pipeline, snapshot, plan, verdict, release, pairs, seconds, garbage)
