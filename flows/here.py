"""A night or a stage run in this process, with progress on standard error."""

from collections.abc import Callable
from typing import TypeVar

from pairloom.flows.configured_server import server_is_configured
from pairloom.flows.show.progress import stage_bars
from pairloom.tasks.pipeline import Pipeline

R = TypeVar("R")


def run_here(function: Callable[[Pipeline], R], pipeline: Pipeline, *, quiet: bool) -> R:
    """Run `nightly` or one of the stages: as a Prefect flow run where a server is configured, else as a plain call.

    Shows progress on standard error; `quiet` only keeps the bars away.
    """
    with stage_bars(quiet=quiet):
        return _as_flow(function)(pipeline) if server_is_configured() else function(pipeline)


def _as_flow(function: Callable[[Pipeline], R]) -> Callable[[Pipeline], R]:
    from pairloom.flows import deployed

    flow: Callable[[Pipeline], R] = getattr(deployed, function.__name__)
    return flow
