"""`pairloom serve`: a Prefect server, the schedules and the runs, for as long as one process lasts."""

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
from prefect.client.schemas.objects import ConcurrencyLimitConfig
from prefect.deployments.runner import RunnerDeployment
from prefect.runner import Runner
from prefect.states import Cancelled
from prefect.types.entrypoint import EntrypointType
from prefect.utilities.callables import ParameterSchema

from pairloom.flows import deployed
from pairloom.flows.automations import HEARTBEAT_SECONDS, keep_automations
from pairloom.flows.deploy import content
from pairloom.flows.interrupt import watch
from pairloom.flows.local_server import prefect_server
from pairloom.flows.notifications import named_blocks
from pairloom.flows.plan import Planned, pipelines_of


def serve(planned: Sequence[Planned]) -> None:
    """Run schedules and runs here until interrupted, beside the configured server or one of our own.

    Here are no work pools: every stage runs in its night's process.
    """
    served = [_served(each) for each in planned]
    with prefect_server() as address:
        runner = _Runner(heartbeat_seconds=HEARTBEAT_SECONDS)
        # Prefect types the call for async callers too; in this sync one it gives the id.
        ids = [cast(UUID, runner.add_deployment(each)) for each in served]
        pipelines = pipelines_of(planned)
        with get_client(sync_client=True) as client:
            keep_automations(client, pipelines, named_blocks(client, pipelines))
        scheduled = [number for number, each in zip(ids, served, strict=True) if each.schedules]
        watch.last_words = partial(copy_context().run, runner.say_goodbye, scheduled)
        names = ", ".join(pipeline.name for pipeline in pipelines)
        rich.print(f"Serving {names}: {address} · Ctrl-C ends it", file=sys.stderr)
        with contextlib.suppress(KeyboardInterrupt):
            asyncio.run(runner.start())


def _served(planned: Planned) -> RunnerDeployment:
    """A planned deployment as Prefect's runner takes it: on no work pool."""
    said = content(planned)
    limit = ConcurrencyLimitConfig(limit=said["concurrency_limit"], **said["concurrency_options"])
    made = RunnerDeployment.from_flow(
        getattr(deployed, planned.flow),
        name=planned.pipeline.name,
        schedules=[planned.schedule] if planned.schedule else [],
        concurrency_limit=limit,
        entrypoint_type=EntrypointType.MODULE_PATH,
        # The last one that was served here has paused them as it ended.
        paused=False,
        **{key: said[key] for key in ("version", "parameters", "tags")},
    )
    # Prefect reads a form off the flow by itself, without what `deploy` says of its fields.
    made._parameter_openapi_schema = ParameterSchema.model_validate(said["parameter_openapi_schema"])
    return made


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
