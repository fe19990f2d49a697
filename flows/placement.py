"""Where a stage runs: here, or on the work pool that `workers:` names for it."""

import logging
from collections.abc import Callable
from typing import Any, TypeVar, cast

from prefect.client.schemas.objects import FlowRun
from prefect.context import FlowRunContext
from prefect.deployments import run_deployment

from pairloom.tasks.pipeline import Pipeline
from pairloom.tasks.stage import timed

logger = logging.getLogger(__name__)

F = TypeVar("F", bound=Callable[..., Any])


def placed(stage: F, pipeline: Pipeline) -> F:
    """`stage` itself, or a call that has its deployment run it on another work pool first.

    Stages remember under the root what they did, so the call that follows here only picks up the ref.
    """
    name = stage.__name__
    pool = getattr(pipeline.workers, name)
    if pool in (None, pipeline.workers.default) or not _on_a_work_pool():
        return stage

    def elsewhere(*args: Any) -> Any:
        logger.info("%s: waiting for work pool %r", name, pool)
        with timed(name):
            # Prefect types the call for async callers too; in this sync one it is a flow run.
            run = cast(FlowRun, run_deployment(f"{name}/{pipeline.name}", parameters=pipeline.parameters))
        if run.state is None or not run.state.is_completed():
            raise RuntimeError(f"{name} on work pool {pool!r} ended {run.state}: see flow run {run.name}")
        return stage(*args)

    return cast(F, elsewhere)


def _on_a_work_pool() -> bool:
    """Whether a worker runs this flow: `pairloom run` and `pairloom serve` keep everything in their own process."""
    context = FlowRunContext.get()
    return bool(context and context.flow_run and context.flow_run.work_pool_name)
