"""A night or a stage run in this process, with progress on standard error."""

from collections.abc import Callable
from contextvars import copy_context
from functools import partial
from typing import TypeVar

from pairloom.flows.configured_server import server_is_configured
from pairloom.flows.interrupt import watch
from pairloom.flows.run_tags import run_tags
from pairloom.flows.show.progress import stage_bars
from pairloom.tasks.pipeline import Pipeline
from pairloom.tasks.stage import standing

R = TypeVar("R")


def run_here(function: Callable[[Pipeline], R], pipeline: Pipeline, *, quiet: bool) -> R:
    """Run `nightly` or one of the stages: as a Prefect flow run where a server is configured, else as a plain call.

    Shows progress on standard error; `quiet` only keeps the bars away.
    """
    watch.last_words = partial(copy_context().run, _tell_prefect)
    with stage_bars(quiet=quiet):
        return _as_flow(function)(pipeline) if server_is_configured() else function(pipeline)


def _as_flow(function: Callable[[Pipeline], R]) -> Callable[[Pipeline], R]:
    from prefect import tags

    from pairloom.flows import deployed

    flow: Callable[[Pipeline], R] = getattr(deployed, function.__name__)

    def tagged(pipeline: Pipeline) -> R:
        with tags(*run_tags(pipeline.name)):
            return flow(pipeline)

    return tagged


def _tell_prefect() -> None:
    now = standing()
    if now and now.flow_run_id:
        from prefect.client.orchestration import get_client
        from prefect.states import Crashed

        with get_client(sync_client=True) as client:
            client.set_flow_run_state(now.flow_run_id, Crashed(message=f"Interrupted in {now.stage}."), force=True)
