"""Prefect deployments from pipelines.yaml: each pipeline's night with its schedule, and its stages for ad-hoc runs."""

import asyncio
import contextlib
import sys
from collections.abc import Sequence
from contextvars import copy_context
from functools import partial
from typing import cast
from uuid import UUID

import rich
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.client.schemas.objects import ConcurrencyLimitConfig, ConcurrencyLimitStrategy
from prefect.client.schemas.schedules import CronSchedule
from prefect.deployments.runner import RunnerDeployment
from prefect.exceptions import ObjectAlreadyExists
from prefect.runner import Runner
from prefect.settings import PREFECT_API_URL
from prefect.states import Cancelled
from prefect.types.entrypoint import EntrypointType
from pydantic import ValidationError

from pairloom.flows.deployed import FLOWS, nightly
from pairloom.flows.interrupt import watch
from pairloom.flows.local_server import prefect_server
from pairloom.tasks.pipeline import Pipeline, WorkersConfig


def plan_deployments(pipelines: Sequence[Pipeline]) -> list[dict[str, str]]:
    """What `deploy` would register, a row each. Raises ValueError for a schedule that means nothing."""
    return [_row(deployment) for pipeline in pipelines for deployment in deployments(pipeline)]


def deployments(pipeline: Pipeline, *, pooled: bool = True) -> list[RunnerDeployment]:
    """One pipeline's deployments: the night first, then each stage; `pooled` places them on their work pools."""
    made = []
    for flow in FLOWS:
        pool = getattr(pipeline.workers, flow.name, None) or pipeline.workers.default
        night = flow is nightly
        made.append(
            RunnerDeployment.from_flow(
                flow,
                name=pipeline.name,
                parameters=pipeline.parameters,
                schedules=[_schedule(pipeline)] if night and pipeline.schedule else [],
                # Two nights of one pipeline would only race for the same release: the later one is not started.
                concurrency_limit=ConcurrencyLimitConfig(
                    limit=1, collision_strategy=ConcurrencyLimitStrategy.CANCEL_NEW
                )
                if night
                else None,
                tags=["pairloom", pipeline.name],
                work_pool_name=pool if pooled else None,
                entrypoint_type=EntrypointType.MODULE_PATH,
            )
        )
    return made


def deploy_pipelines(pipelines: Sequence[Pipeline]) -> list[dict[str, str]]:
    """Register all deployments, and the work pools they name, on the Prefect server. Twice is the same as once."""
    if not PREFECT_API_URL.value():
        raise ValueError(
            "no Prefect server is configured: set PREFECT_API_URL (like http://127.0.0.1:4200/api) to one that "
            "`prefect server start` runs, or use `pairloom serve`, which starts its own"
        )
    planned = [deployment for pipeline in pipelines for deployment in deployments(pipeline)]
    with get_client(sync_client=True) as client:
        for pool in sorted({deployment.work_pool_name or "" for deployment in planned}):
            with contextlib.suppress(ObjectAlreadyExists):
                client.create_work_pool(WorkPoolCreate(name=pool, type="process"))
    for deployment in planned:
        deployment.apply()
    return [_row(deployment) for deployment in planned]


def serve_pipelines(pipelines: Sequence[Pipeline]) -> None:
    """Run schedules and runs here until interrupted, beside the configured server or one of our own."""
    # Here are no work pools: a night that waited for one would wait for ever.
    here = [pipeline.model_copy(update={"workers": WorkersConfig()}) for pipeline in pipelines]
    served = [deployment for pipeline in here for deployment in deployments(pipeline, pooled=False)]
    with prefect_server() as address:
        runner = _Runner()
        # Prefect types the call for async callers too; in this sync one it gives the id.
        ids = [cast(UUID, runner.add_deployment(deployment)) for deployment in served]
        scheduled = [each for each, deployment in zip(ids, served, strict=True) if deployment.schedules]
        watch.last_words = partial(copy_context().run, runner.say_goodbye, scheduled)
        rich.print(f"Serving {', '.join(each.name for each in pipelines)}: {address} · Ctrl-C ends it", file=sys.stderr)
        with contextlib.suppress(KeyboardInterrupt):
            asyncio.run(runner.start())


class _Runner(Runner):
    """Prefect's runner, made to end on SIGTERM: its own handler leaves the event loop and its runs in the middle."""

    def say_goodbye(self, scheduled: Sequence[UUID]) -> None:
        """Tell the server what ends here at once: the runs under way, and these deployments' schedules."""
        with get_client(sync_client=True) as client:
            for run in self._process_manager.flow_run_ids():
                client.set_flow_run_state(run, Cancelled(message="Interrupted."), force=True)
            for deployment in scheduled:
                client.pause_deployment(deployment)

    def handle_sigterm(self, *_args: object, **_kwargs: object) -> None:
        """Cancel the runs and stop."""
        asyncio.run_coroutine_threadsafe(self.astop(), asyncio.get_running_loop())


def _schedule(pipeline: Pipeline) -> CronSchedule:
    schedule = pipeline.schedule
    assert schedule is not None
    try:
        return CronSchedule(cron=schedule.cron, timezone=schedule.timezone)
    except ValidationError as error:
        fault = error.errors()[0]
        key, said = fault["loc"][0], fault["msg"].removeprefix("Value error, ")
        raise ValueError(f"pipeline {pipeline.name!r}: schedule.{key}: {said}") from error


def _row(deployment: RunnerDeployment) -> dict[str, str]:
    crons = [each.schedule for each in deployment.schedules or [] if isinstance(each.schedule, CronSchedule)]
    return {
        "deployment": deployment.full_name,
        "work_pool": deployment.work_pool_name or "",
        "schedule": ", ".join(f"{cron.cron} {cron.timezone}" for cron in crons),
    }
