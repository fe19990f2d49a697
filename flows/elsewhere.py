"""A stage as a flow run of its own on another work pool: started, waited for, and told of where no worker takes it."""

import contextlib
import logging
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any, cast

import httpx
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import WorkerFilter, WorkerFilterStatus
from prefect.client.schemas.objects import FlowRun, State, WorkerStatus, WorkPool
from prefect.context import FlowRunContext
from prefect.deployments import run_deployment
from prefect.exceptions import PrefectException
from prefect.states import Cancelled, Cancelling, Running

from pairloom.tasks.pipeline import WorkersConfig

logger = logging.getLogger(__name__)

POLL_SECONDS = 0.5
LOOK_SECONDS = 5.0
"""Between two looks for workers, while none has taken the run up."""
WAITS = "AwaitingWorker"
"""Name of a night's state while a pool that it needs has no worker."""


class NoWorkerError(RuntimeError):
    """No worker of a work pool was there in time; the message says what to start."""


def run_elsewhere(deployment: str, pool: str, parameters: dict[str, Any], workers: WorkersConfig) -> FlowRun:
    """The run of a deployment on a work pool, once it has ended.

    Raises NoWorkerError where the pool has no worker for `workers.wait_minutes`. A run that nobody waits for any more,
    because this one was stopped, is stopped as well.
    """
    # Prefect types the call for async callers too; in this sync one it is a flow run.
    name = deployment.replace("/", "-")
    run = cast(FlowRun, run_deployment(deployment, parameters=parameters, flow_run_name=name, timeout=0))
    with get_client(sync_client=True) as client, _stopped_with_us(client, run):
        _taken(client, run, pool, workers.wait_minutes)
        while not (run.state and run.state.is_final()):
            time.sleep(POLL_SECONDS)
            run = seen(client, run)
    return run


def seen(client: SyncPrefectClient, run: FlowRun) -> FlowRun:
    """A run as the server has it now; as it was last seen while that doesn't answer: a training's hours outlast it."""
    try:
        return client.read_flow_run(run.id)
    except httpx.TransportError as error:
        logger.warning("the Prefect server doesn't tell how flow run %s is: %s", run.name, error)
        return run


def lack(client: SyncPrefectClient, pool: WorkPool) -> str:
    """What a work pool lacks before it runs anything, and the command that brings it; empty where it lacks nothing."""
    if pool.is_paused:
        return f"work pool {pool.name!r} is paused: `prefect work-pool resume {pool.name}`"
    # Prefect's cloud runs these by itself.
    if pool.is_push_pool or pool.is_managed_pool:
        return ""
    online = WorkerFilter(status=WorkerFilterStatus(any_=[WorkerStatus.ONLINE]))
    if client.read_workers_for_work_pool(pool.name, worker_filter=online, limit=1):
        return ""
    return f"work pool {pool.name!r} has no worker: start one with `prefect worker start --pool {pool.name}`"


def _taken(client: SyncPrefectClient, run: FlowRun, pool: str, wait_minutes: float) -> None:
    """Return once a worker has taken the run up, or it has ended; meanwhile this run's state says what is missing."""
    give_up, looked, said = float("inf"), float("-inf"), ""
    while (now := client.read_flow_run(run.id).state) and now.is_scheduled():
        if time.monotonic() - looked >= LOOK_SECONDS:
            missing, looked = lack(client, client.read_work_pool(pool)), time.monotonic()
            give_up = min(give_up, looked + 60 * wait_minutes) if missing else float("inf")
            if missing != said:
                _say(client, missing, wait_minutes)
                said = missing
        if time.monotonic() > give_up:
            raise NoWorkerError(f"{said}; it was waited for {wait_minutes:g} minutes (workers.wait_minutes)")
        time.sleep(POLL_SECONDS)
    if said:
        _say(client, "", wait_minutes)


def _say(client: SyncPrefectClient, missing: str, wait_minutes: float) -> None:
    """Show on this run's page what it waits for, or that it goes on."""
    state: State[Any] = Running()
    if missing:
        until = datetime.now(UTC) + timedelta(minutes=wait_minutes)
        state = Running(name=WAITS, message=f"{missing}. Waits until {until:%Y-%m-%d %H:%M} UTC.")
        logger.warning("%s; waiting until %s UTC", missing, f"{until:%Y-%m-%d %H:%M}")
    context = FlowRunContext.get()
    if context and context.flow_run:
        client.set_flow_run_state(context.flow_run.id, state, force=True)


@contextlib.contextmanager
def _stopped_with_us(client: SyncPrefectClient, run: FlowRun) -> Iterator[None]:
    try:
        yield
    except BaseException as error:
        # Whatever ends this run, the other one would hold its worker for nothing.
        with contextlib.suppress(PrefectException, OSError):
            now = client.read_flow_run(run.id).state
            if now and not now.is_final():
                said = str(error) or "The night that waited for it ended."
                ending: State[Any] = Cancelled(message=said) if now.is_scheduled() else Cancelling(message=said)
                client.set_flow_run_state(run.id, ending, force=True)
        raise
