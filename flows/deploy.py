"""Prefect deployments from pipelines.yaml: each pipeline's night with its schedule, and its stages for ad-hoc runs."""

import contextlib
import logging
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence

from prefect import serve
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.client.schemas.objects import ConcurrencyLimitConfig, ConcurrencyLimitStrategy
from prefect.client.schemas.schedules import CronSchedule
from prefect.deployments.runner import RunnerDeployment
from prefect.exceptions import ObjectAlreadyExists
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect.types.entrypoint import EntrypointType

from flows.nightly import nightly
from flows.stages import STAGES
from tasks.pipeline import Pipeline

logger = logging.getLogger(__name__)

SERVER = "http://127.0.0.1:4200"
SERVER_START_SECONDS = 180


def plan_deployments(pipelines: Sequence[Pipeline]) -> list[dict[str, str]]:
    """What `deploy` would register, a row each. Raises ValueError for a schedule that means nothing."""
    return [_row(deployment) for pipeline in pipelines for deployment in deployments(pipeline)]


def deployments(pipeline: Pipeline, *, pooled: bool = True) -> list[RunnerDeployment]:
    """One pipeline's deployments: the night first, then each stage; `pooled` places them on their work pools."""
    made = []
    for flow in (nightly, *STAGES):
        pool = getattr(pipeline.workers, flow.name, None) or pipeline.workers.default
        night = flow is nightly
        made.append(
            RunnerDeployment.from_flow(
                flow,
                name=pipeline.name,
                parameters={"pipeline": pipeline.model_dump(mode="json", by_alias=True)},
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
    with _server():
        serve(*(each for pipeline in pipelines for each in deployments(pipeline, pooled=False)))


@contextlib.contextmanager
def _server() -> Iterator[None]:
    """The configured Prefect server, or a local one for as long as we run."""
    if PREFECT_API_URL.value():
        yield
        return
    command = [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", "4200"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        _wait_for_server(process)
        with temporary_settings({PREFECT_API_URL: f"{SERVER}/api"}):
            yield
    finally:
        process.terminate()
        process.wait(timeout=30)


def _wait_for_server(process: "subprocess.Popen[bytes]") -> None:
    give_up = time.monotonic() + SERVER_START_SECONDS
    while time.monotonic() < give_up:
        if process.poll() is not None:
            raise RuntimeError(
                f"the Prefect server ended with status {process.returncode}; where port 4200 is taken, "
                "set PREFECT_API_URL to the server that is there"
            )
        with contextlib.suppress(urllib.error.URLError, OSError), urllib.request.urlopen(f"{SERVER}/api/health"):
            return
        time.sleep(0.5)
    raise RuntimeError(f"the Prefect server did not answer at {SERVER} within {SERVER_START_SECONDS} seconds")


def _schedule(pipeline: Pipeline) -> CronSchedule:
    schedule = pipeline.schedule
    assert schedule is not None
    try:
        return CronSchedule(cron=schedule.cron, timezone=schedule.timezone)
    except ValueError as error:
        raise ValueError(f"pipeline {pipeline.name!r}: schedule: {' '.join(str(error).split())}") from error


def _row(deployment: RunnerDeployment) -> dict[str, str]:
    crons = [each.schedule for each in deployment.schedules or [] if isinstance(each.schedule, CronSchedule)]
    return {
        "deployment": deployment.full_name,
        "work_pool": deployment.work_pool_name or "",
        "schedule": ", ".join(f"{cron.cron} {cron.timezone}" for cron in crons),
    }
