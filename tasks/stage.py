"""The one decorator over Prefect's: a stage is a Prefect task inside a flow run and a plain call outside of one."""

import functools
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar, cast
from uuid import UUID

import prefect
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State
from prefect.context import FlowRunContext
from prefect.logging.handlers import APILogHandler

logger = logging.getLogger(__name__)

F = TypeVar("F", bound=Callable[..., Any])


class Listener(Protocol):
    """Who hears how far a stage is: the command line's progress bars, say."""

    def __call__(self, stage: str, done: float, total: float | None, note: str) -> None: ...


_listener: ContextVar[Listener | None] = ContextVar("listener", default=None)
_seconds: ContextVar[dict[str, float] | None] = ContextVar("seconds", default=None)
_logged: dict[str, float] = {}
_standing: "list[Standing]" = []

LOG_EVERY_SECONDS = 15.0
PACKAGES = ("flows", "tasks", "models", "storage", "search")


@dataclass(frozen=True)
class Standing:
    """What this process is at."""

    stage: str
    flow_run_id: UUID | None
    """Prefect's, where a flow run is what runs it."""


def standing() -> Standing | None:
    """What this process is at, whichever thread asks; None between stages."""
    # Another thread may be taking it away.
    return next(reversed(tuple(_standing)), None)


def listen(listener: Listener) -> None:
    """Send the progress of all stages called from here on to `listener` instead of the log."""
    _listener.set(listener)


def clock() -> dict[str, float]:
    """A fresh record that every stage called from here on adds its wall seconds to, by name."""
    seconds: dict[str, float] = {}
    _seconds.set(seconds)
    return seconds


@contextmanager
def timed(name: str) -> Iterator[None]:
    """Add the wall seconds of what runs inside to the clock, under `name`."""
    started, context = time.monotonic(), FlowRunContext.get()
    _standing.append(Standing(name, context.flow_run.id if context and context.flow_run else None))
    try:
        yield
    finally:
        _standing.pop()
    seconds = _seconds.get()
    if seconds is not None:
        seconds[name] = round(seconds.get(name, 0.0) + time.monotonic() - started, 2)


def report_progress(stage: str, done: float, total: float | None = None, note: str = "") -> None:
    """Say how far `stage` is. Without a listener it goes to the log, every few seconds."""
    listener = _listener.get()
    if listener is not None:
        listener(stage, done, total, note)
    elif time.monotonic() - _logged.get(stage, 0.0) > LOG_EVERY_SECONDS:
        _logged[stage] = time.monotonic()
        share = f"{done / total:.0%}" if total else f"{done:,.0f} done" if done else ""
        logger.info("%s: %s", stage, " ".join(filter(None, (share, note))))


def stage(*, retries: int = 0) -> Callable[[F], F]:
    """Make a stage of a function whose first argument is the pipeline; `retries` where trying again can help."""

    def decorate(function: F) -> F:
        name = function.__name__
        # Stages remember by content what they did: Prefect's own cache would only hash the same refs again.
        task = prefect.task(
            name=name,
            task_run_name=f"{name}-{{pipeline.name}}",
            retries=retries,
            retry_delay_seconds=[10.0 * 3**attempt for attempt in range(retries)],
            retry_condition_fn=_may_pass,
            cache_policy=NO_CACHE,
        )(function)

        @functools.wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            with timed(name):
                if FlowRunContext.get() is None:
                    result = function(*args, **kwargs)
                else:
                    _log_to_prefect()
                    result = task(*args, **kwargs)
            if listener := _listener.get():
                listener(name, 1, 1, "")
            return result

        return cast(F, call)

    return decorate


def _may_pass(_task: object, _run: object, state: State[Any]) -> bool:
    """Whether trying again can help: bad input stays bad, a disk or a network may come back."""
    try:
        state.result()
    except OSError:
        return True
    except Exception:
        return False
    return False


def _log_to_prefect() -> None:
    """Have our loggers write to the flow run's page, wherever the run was started: no setting can be forgotten."""
    for package in PACKAGES:
        ours = logging.getLogger(package)
        if not any(isinstance(handler, APILogHandler) for handler in ours.handlers):
            handler = APILogHandler()
            # It outlives the run, and would warn about whatever is logged after it.
            handler.addFilter(lambda _record: FlowRunContext.get() is not None)
            ours.addHandler(handler)
            ours.setLevel(logging.INFO)
