"""Evaluate: challenger and champion on the same validation queries, and the gate's verdict."""

from pairloom.storage.modelstore import ModelStore, is_plain
from pairloom.storage.releases import release_log
from pairloom.storage.runs import Run
from pairloom.tasks.decide import verdict_name
from pairloom.tasks.evaluation.card import lineage, model_card
from pairloom.tasks.pipeline import Pipeline
from pairloom.tasks.refs import ModelRef, Plan, Verdict
from pairloom.tasks.stage import stage


@stage()
def evaluate(pipeline: Pipeline, plan: Plan, challenger: ModelRef) -> Verdict:
    """Measure, decide, and write down what the challenger is."""
    run, name = Run(pipeline.folder, plan.run_id), verdict_name(pipeline)
    if done := run.read(name, Verdict):
        return done
    # torch, for a night that trains.
    from pairloom.tasks.evaluation.contest import contest

    verdict, models = contest(pipeline, plan, challenger), ModelStore(pipeline.folder)
    # The folder of a model that was ever released doesn't change, though the same training may give it again.
    released = release_log(pipeline.folder).written()
    published = {model for release in released for model in (release.model_id, release.measured)}
    if challenger.model_id and not (challenger.model_id in published and models.described(challenger.model_id)):
        facts = lineage(pipeline, plan, challenger, verdict)
        plain = is_plain(models.path(challenger.model_id))
        models.describe(challenger.model_id, facts, model_card(pipeline, facts, plain=plain))
    run.write(name, verdict)
    return verdict


def hold(pipeline: Pipeline, plan: Plan, verdict: Verdict, reason: str) -> Verdict:
    """The verdict on a challenger that passed, and then turned out not to serve: held, and remembered so."""
    held = verdict.model_copy(update={"passed": False, "reasons": (reason,)})
    Run(pipeline.folder, plan.run_id).write(verdict_name(pipeline), held)
    return held
