"""Where a stage runs: here, or on the work pool that `workers:` names for it."""

import logging
from collections.abc import Callable
from typing import Any, TypeVar, cast

from pairloom.models.fitness import UnfitModelError
from pairloom.tasks.pipeline import Pipeline
from pairloom.tasks.stage import flow_run_context, timed

logger = logging.getLogger(__name__)

F = TypeVar("F", bound=Callable[..., Any])

UNFIT = "Unfit"
"""Name of the state that a flow run of an unfit model ends in: its exception doesn't come back from another machine."""


def placed(stage: F, pipeline: Pipeline) -> F:
    """`stage` itself, or a call that has its deployment run it on another work pool first.

    Stages remember under the root what they did, so the call that follows here only picks up the ref. Raises
    UnfitModelError where the run ended by that, RuntimeError where it failed otherwise or no worker took it up.
    """
    name = stage.__name__
    pool = other_pool(name, pipeline)
    if pool is None:
        return stage

    def elsewhere(*args: Any) -> Any:
        # Prefect's client takes long to import, and only a night that has a worker elsewhere needs it.
        from pairloom.flows.elsewhere import run_elsewhere
        from pairloom.flows.tonight import sent

        logger.info("%s: waiting for work pool %r", name, pool)
        with timed(name):
            run = run_elsewhere(f"{name}/{pipeline.name}", pool, sent(pipeline), pipeline.workers)
        if run.state and run.state.name == UNFIT:
            raise UnfitModelError(run.state.message or f"{name} on work pool {pool!r}: an unfit model")
        if run.state is None or not run.state.is_completed():
            raise RuntimeError(f"{name} on work pool {pool!r} ended {run.state}: see flow run {run.name}")
        return stage(*args)

    return cast(F, elsewhere)


def other_pool(stage: str, pipeline: Pipeline) -> str | None:
    """The work pool that runs a stage of this night where it isn't the night's own.

    Only a night that a worker runs has one: `pairloom run` and `pairloom serve` keep everything in their own process.
    """
    pool: str | None = getattr(pipeline.workers, stage)
    context = flow_run_context()
    on_a_work_pool = context and context.flow_run and context.flow_run.work_pool_name
    return pool if on_a_work_pool and pool != pipeline.workers.default else None
