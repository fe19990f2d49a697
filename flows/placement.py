"""Where a stage runs: here, or on the work pool that `workers:` names for it."""

from collections.abc import Callable
from typing import Any, TypeVar, cast

from prefect.client.schemas.objects import FlowRun
from prefect.context import FlowRunContext
from prefect.deployments import run_deployment

from tasks.pipeline import Pipeline

F = TypeVar("F", bound=Callable[..., Any])


def placed(stage: F, pipeline: Pipeline) -> F:
    """`stage` itself, or a call that has its deployment run it on another work pool first.

    Stages remember under the root what they did, so the call that follows here only picks up the ref.
    """
    name = stage.__name__
    pool = getattr(pipeline.workers, name)
    if pool in (None, pipeline.workers.default) or FlowRunContext.get() is None:
        return stage

    def elsewhere(*args: Any) -> Any:
        parameters = {"pipeline": pipeline.model_dump(mode="json", by_alias=True)}
        # Prefect types the call for async callers too; in this sync one it is a flow run.
        run = cast(FlowRun, run_deployment(name=f"{name}/{pipeline.name}", parameters=parameters))
        if run.state is None or not run.state.is_completed():
            raise RuntimeError(f"{name} on work pool {pool!r} ended {run.state}: see flow run {run.name}")
        return stage(*args)

    return cast(F, elsewhere)
