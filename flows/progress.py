"""Flows run from the command line, with progress bars on standard error."""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import copy_context
from functools import partial
from typing import TypeVar

from prefect import Flow
from prefect.client.orchestration import get_client
from prefect.settings import PREFECT_API_URL
from prefect.states import Crashed
from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn

from flows.interrupt import watch
from tasks.pipeline import Pipeline
from tasks.stage import listen, standing

R = TypeVar("R")

err = Console(stderr=True)

COLUMNS = (
    SpinnerColumn(),
    TextColumn("{task.description:<9}"),
    BarColumn(bar_width=24),
    TextColumn("{task.fields[note]}"),
    TimeElapsedColumn(),
)


@contextmanager
def bar(title: str) -> Iterator[Callable[[int, int], None]]:
    """A progress bar on standard error, moved by calling it with what is done and the total."""
    with Progress(*COLUMNS, console=err) as progress:
        shown = progress.add_task(title, total=None, note="")
        yield lambda done, total: progress.update(shown, completed=done, total=total, note=f"{done:,} of {total:,}")


def run_flow(flow: Flow[[Pipeline], R], pipeline: Pipeline, *, quiet: bool) -> R:
    """Run a flow here: as a Prefect flow run where an API is configured, else as a plain call.

    Shows progress on standard error; `quiet` only keeps the bars away.
    """
    call = flow if PREFECT_API_URL.value() else flow.fn
    watch.last_words = partial(copy_context().run, _tell_prefect)
    with stage_bars(quiet=quiet):
        return call(pipeline)


@contextmanager
def stage_bars(*, quiet: bool) -> Iterator[None]:
    """A bar for every stage that runs inside; where `quiet`, or where there is no terminal, lines in the log."""
    watch.stage = _stage
    if quiet or not err.is_terminal:
        logging.getLogger("tasks").setLevel(logging.INFO)
        yield
        return
    with Progress(*COLUMNS, console=err) as progress:
        bars: dict[str, TaskID] = {}

        def hear(stage: str, done: float, total: float | None, note: str) -> None:
            if stage not in bars:
                bars[stage] = progress.add_task(stage, total=total, note=note)
            counted = f"{done:,.0f}" if total is None else f"{done / total if total else 1:.0%}"
            progress.update(bars[stage], completed=done, total=total)
            # The last word of a stage stays on its line.
            if note or done != total:
                progress.update(bars[stage], note=note or counted)

        listen(hear)
        yield


def _stage() -> str | None:
    now = standing()
    return now.stage if now else None


def _tell_prefect() -> None:
    now = standing()
    if now and now.flow_run_id:
        with get_client(sync_client=True) as client:
            client.set_flow_run_state(now.flow_run_id, Crashed(message=f"Interrupted in {now.stage}."), force=True)
