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
from prefect.deployments.runner import RunnerDeployment
from prefect.exceptions import ObjectAlreadyExists
from prefect.runner import Runner
from prefect.settings import PREFECT_API_URL
from prefect.states import Cancelled
from prefect.types.entrypoint import EntrypointType

from pairloom.flows import deployed
from pairloom.flows.automations import HEARTBEAT_SECONDS, keep_automations
from pairloom.flows.interrupt import watch
from pairloom.flows.local_server import prefect_server
from pairloom.flows.notifications import named_blocks
from pairloom.flows.plan import Planned, plan_deployments
from pairloom.flows.run_tags import run_tags
from pairloom.tasks.pipeline import Pipeline, WorkersConfig


def deployment(planned: Planned, *, pooled: bool = True) -> RunnerDeployment:
    """A planned deployment as Prefect takes it; `pooled` places it on its work pool."""
    night = planned.flow == deployed.nightly.name
    return RunnerDeployment.from_flow(
        getattr(deployed, planned.flow),
        name=planned.pipeline.name,
        parameters=planned.pipeline.parameters,
        schedules=[planned.schedule] if planned.schedule else [],
        # Two nights of one pipeline would only race for the same release: the later one is not started.
        concurrency_limit=ConcurrencyLimitConfig(limit=1, collision_strategy=ConcurrencyLimitStrategy.CANCEL_NEW)
        if night
        else None,
        tags=run_tags(planned.pipeline.name),
        job_variables={"env": {"PREFECT_FLOWS_HEARTBEAT_FREQUENCY": str(HEARTBEAT_SECONDS)}},
        work_pool_name=planned.work_pool if pooled else None,
        entrypoint_type=EntrypointType.MODULE_PATH,
    )


def deploy_pipelines(pipelines: Sequence[Pipeline]) -> list[dict[str, str]]:
    """Register all deployments, and the work pools they name, on the Prefect server. Twice is the same as once."""
    if not PREFECT_API_URL.value():
        raise ValueError(
            "no Prefect server is configured: set PREFECT_API_URL (like http://127.0.0.1:4200/api) to one that "
            "`prefect server start` runs, or use `pairloom serve`, which starts its own"
        )
    planned = plan_deployments(pipelines)
    with get_client(sync_client=True) as client:
        blocks = named_blocks(client, pipelines)
        for pool in sorted({each.work_pool for each in planned}):
            with contextlib.suppress(ObjectAlreadyExists):
                client.create_work_pool(WorkPoolCreate(name=pool, type="process"))
        for each in planned:
            deployment(each).apply()
        keep_automations(client, pipelines, blocks)
    return [each.row for each in planned]


def serve_pipelines(pipelines: Sequence[Pipeline]) -> None:
    """Run schedules and runs here until interrupted, beside the configured server or one of our own."""
    # Here are no work pools: a night that waited for one would wait for ever.
    here = [pipeline.model_copy(update={"workers": WorkersConfig()}) for pipeline in pipelines]
    served = [deployment(each, pooled=False) for each in plan_deployments(here)]
    with prefect_server() as address:
        runner = _Runner()
        # Prefect types the call for async callers too; in this sync one it gives the id.
        ids = [cast(UUID, runner.add_deployment(each)) for each in served]
        with get_client(sync_client=True) as client:
            keep_automations(client, pipelines, named_blocks(client, pipelines))
        scheduled = [number for number, each in zip(ids, served, strict=True) if each.schedules]
        watch.last_words = partial(copy_context().run, runner.say_goodbye, scheduled)
        names = ", ".join(pipeline.name for pipeline in pipelines)
        rich.print(f"Serving {names}: {address} · Ctrl-C ends it", file=sys.stderr)
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
