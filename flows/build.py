"""What a release will serve: a snapshot embedded by one model, in a checked table that a fresh process has searched."""

from dataclasses import dataclass

from pairloom.flows.placement import placed
from pairloom.flows.rehearsal import rehearse
from pairloom.models.fitness import UnfitModelError
from pairloom.search.rehearsal import GoldenAnswer
from pairloom.tasks.calibrate import calibrate
from pairloom.tasks.embed import embed
from pairloom.tasks.index import index
from pairloom.tasks.pipeline import Pipeline
from pairloom.tasks.publish import propose
from pairloom.tasks.refit import without_refit
from pairloom.tasks.refs import Plan, Proposal, Verdict


@dataclass(frozen=True)
class Built:
    """What may be published, or why it must not."""

    fit: Proposal | None
    unfit: str = ""
    """Why it is held; empty where it may be published."""
    golden: tuple[GoldenAnswer, ...] = ()
    verdict: Verdict | None = None
    """Tonight's, which may have changed on the way."""


def build_challenger(pipeline: Pipeline, plan: Plan, verdict: Verdict) -> Built:
    """The snapshot as a challenger that passed serves it; as it was measured where what became of it on all items is
    unfit. Raises DamagedError as `build` does."""
    measured, serving = verdict.model_id, verdict.serving
    assert measured is not None, "what passed is a model"
    assert serving is not None, "what passed is a model"
    built = build(pipeline, plan, verdict, serving)
    if built.unfit and serving != measured:
        built = build(pipeline, plan, without_refit(pipeline, plan, verdict, built.unfit), measured)
    return built


def build(pipeline: Pipeline, plan: Plan, verdict: Verdict | None, model_id: str) -> Built:
    """The snapshot as one model serves it; unfit where vectors are no numbers, a check fails or golden queries miss.

    Raises DamagedError, with what can be done, where what is proposed can't be served.
    """
    try:
        table = index(pipeline, placed(embed, pipeline)(pipeline, plan.snapshot, model_id))
        measured = plan.measured(model_id, verdict)
        if measured != model_id:
            # The next night looks at its rows by it, and mines with it.
            placed(embed, pipeline)(pipeline, plan.snapshot, measured)
        fitting = calibrate(pipeline, table, measured)
    except UnfitModelError as error:
        return Built(fit=None, unfit=str(error), verdict=verdict)
    proposal = propose(pipeline, plan, verdict, table, fitting)
    rehearsal = rehearse(pipeline, proposal)
    return Built(None if rehearsal.missed else proposal, rehearsal.missed, rehearsal.golden, verdict)
