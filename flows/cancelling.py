"""A run that somebody cancels says at once that it is cancelled, and takes its runs on other work pools along.

Prefect's worker says so only after it has loaded the flow once more, in a process of its own, to look for hooks; and a
server ends the runs below a cancelled one by a service that looks around three times a minute.
"""

import atexit
import functools
import gc
import logging
from collections.abc import Callable
from typing import Any, TypeVar, cast

import httpx
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterParentFlowRunId
from prefect.client.schemas.objects import FlowRun
from prefect.context import FlowRunContext
from prefect.exceptions import PrefectException, TerminationSignal
from prefect.states import Cancelled, Cancelling

logger = logging.getLogger(__name__)

F = TypeVar("F", bound=Callable[..., Any])

LEFT = "Cancelled. Another run goes on from what this one left."


def cancellable(function: F) -> F:
    """What a flow calls, made to say that it was cancelled when that is why it is told to end."""

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        try:
            return function(*args, **kwargs)
        except TerminationSignal:
            _try_to_settle()
            raise

    return cast(F, call)


def _try_to_settle() -> None:
    context = FlowRunContext.get()
    assert context is not None, "it is called in a flow run"
    assert context.flow_run is not None, "it is called in a flow run"
    # Python's last steps look through all that torch made: a second and more, for nothing.
    atexit.register(gc.freeze)
    try:
        with get_client(sync_client=True) as client:
            settle(client, context.flow_run)
    except (httpx.HTTPError, PrefectException) as error:
        logger.warning("the Prefect server wasn't told of the end: %s", error)


def settle(client: SyncPrefectClient, run: FlowRun) -> None:
    """End a run that is being cancelled, and have those below it cancelled. One whose worker ends did crash."""
    state = client.read_flow_run(run.id).state
    if state is None or not state.is_cancelling():
        return
    below = FlowRunFilter(parent_flow_run_id=FlowRunFilterParentFlowRunId(any_=[run.id]))
    for child in client.read_flow_runs(flow_run_filter=below):
        # One that is told twice can be ended before it has said that it is cancelled.
        if child.state and not (child.state.is_final() or child.state.is_cancelling()):
            # What waits for a worker has nobody who could end it.
            waits = child.state.is_scheduled()
            client.set_flow_run_state(child.id, Cancelled(message=LEFT) if waits else Cancelling(), force=True)
    client.set_flow_run_state(run.id, Cancelled(message=LEFT), force=True)
