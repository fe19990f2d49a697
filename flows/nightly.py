"""The night: from new rows to a release. The whole project on one screen."""

from pairloom.flows.outcome import Night
from pairloom.flows.placement import other_pool, placed
from pairloom.tasks.decide import decide
from pairloom.tasks.embed import embed
from pairloom.tasks.evaluate import evaluate
from pairloom.tasks.index import index
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
    pairs = verdict = release = None
    model_id = plan.champion_model

    if model_id and plan.action != "nothing":
        placed(embed, pipeline)(pipeline, plan.snapshot, model_id)

    if plan.action == "retrain":
        pairs = mine(pipeline, plan)
        challenger = placed(train, pipeline)(pipeline, plan, pairs)
        verdict = evaluate(pipeline, plan, challenger)
        model_id = challenger.model_id if verdict.passed else plan.champion_model

    if model_id and (plan.brings_rows or (verdict and verdict.passed)):
        vectors = placed(embed, pipeline)(pipeline, plan.snapshot, model_id)
        table = index(pipeline, vectors)
        release = publish(pipeline, plan, table, verdict)

    return Night.ended(pipeline, snapshot, plan, verdict, release, pairs, seconds)
