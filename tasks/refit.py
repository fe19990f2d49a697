"""Refit: a challenger that passed the gate learns from all items, and then serves in the place of what was measured."""

from pairloom.storage.modelstore import ModelStore
from pairloom.storage.runs import Run
from pairloom.tasks.decide import verdict_name
from pairloom.tasks.pipeline import Pipeline
from pairloom.tasks.refs import Plan, Refit, Verdict
from pairloom.tasks.stage import stage


@stage()
def refit(pipeline: Pipeline, plan: Plan, verdict: Verdict) -> Verdict:
    """The verdict, with the model that is to serve. A killed training goes on from its last checkpoint."""
    done, models = verdict.refit, ModelStore(pipeline.folder)
    # One that was damaged since is made again.
    if done and (done.model_id is None or models.holds(done.model_id)):
        return verdict
    # torch, for a night that trains.
    from pairloom.tasks.training.refitting import refitted

    return kept(pipeline, plan, verdict, refitted(pipeline, plan, verdict))


def without_refit(pipeline: Pipeline, plan: Plan, verdict: Verdict, reason: str) -> Verdict:
    """The verdict on a challenger whose refit turned out not to serve: what was measured does."""
    assert verdict.refit is not None, "it was refitted"
    said = f"model {verdict.model_id} serves as it was measured; trained on all items it is not served: {reason}"
    return kept(pipeline, plan, verdict, verdict.refit.model_copy(update={"serves": False, "said": said}))


def kept(pipeline: Pipeline, plan: Plan, verdict: Verdict, found: Refit) -> Verdict:
    """The verdict with what came of the refit, which a run that goes on with this one finds."""
    comparisons = tuple(dict.fromkeys((*verdict.comparisons, found.said)))
    known = verdict.model_copy(update={"refit": found, "comparisons": comparisons})
    Run(pipeline.folder, plan.run_id).write(verdict_name(pipeline), known)
    return known
