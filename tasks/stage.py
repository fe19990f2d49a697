"""The one decorator of the verbs: a stage is a Prefect task inside a flow run and a plain call outside of one."""

import functools
import logging
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, cast
from uuid import UUID

from pairloom.storage.files import full_disk_named

if TYPE_CHECKING:
    from prefect.context import FlowRunContext

    from pairloom.tasks.progress_bar import ProgressBar

logger = logging.getLogger(__name__)

F = TypeVar("F", bound=Callable[..., Any])


class Listener(Protocol):
    """Who hears how far a stage is: the command line's progress bars, say."""

    def __call__(self, stage: str, done: float, total: float | None, note: str) -> None: ...


_listener: ContextVar[Listener | None] = ContextVar("listener", default=None)
_bar: "ContextVar[ProgressBar | None]" = ContextVar("bar", default=None)
_seconds: ContextVar[dict[str, float] | None] = ContextVar("seconds", default=None)
_refs: ContextVar[dict[str, Any] | None] = ContextVar("refs", default=None)
_logged: dict[tuple[str, str], float] = {}
_standing: "list[Standing]" = []

LOG_EVERY_SECONDS = 15.0


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


def listen(listener: Listener | None) -> None:
    """Send the progress of all stages called from here on to `listener` instead of the log; to the log for None."""
    _listener.set(listener)


def clock() -> dict[str, float]:
    """A fresh record that every stage called from here on adds its wall seconds to, by name."""
    seconds: dict[str, float] = {}
    _seconds.set(seconds)
    return seconds


def seconds_so_far() -> dict[str, float]:
    """What the clock has counted."""
    return dict(_seconds.get() or {})


def refs() -> dict[str, Any]:
    """A fresh record that every stage called from here on leaves its last ref in, by name: what a failed night has."""
    left: dict[str, Any] = {}
    _refs.set(left)
    return left


@contextmanager
def timed(name: str) -> Iterator[None]:
    """Add the wall seconds of what runs inside to the clock, under `name`."""
    started, context = time.monotonic(), flow_run_context()
    _standing.append(Standing(name, context.flow_run.id if context and context.flow_run else None))
    try:
        yield
    finally:
        _standing.pop()
    seconds = _seconds.get()
    if seconds is not None:
        seconds[name] = round(seconds.get(name, 0.0) + time.monotonic() - started, 2)


def report_progress(stage: str, done: float, total: float | None = None, note: str = "") -> None:
    """Say how far `stage` is. Without a listener it goes to the log, every few seconds; in a flow run to its page."""
    if bar := _bar.get():
        bar.move(done, total, note)
    listener = _listener.get()
    if listener is not None:
        listener(stage, done, total, note)
    # What another kind of note said just now, of reading items, say, hides no loss.
    elif time.monotonic() - _logged.get(kind := (stage, note.partition(" ")[0]), 0.0) > LOG_EVERY_SECONDS:
        share = f"{done / total:.0%}" if total else f"{done:,.0f} done" if done else ""
        if said := " ".join(filter(None, (share, note))):
            _logged[kind] = time.monotonic()
            logger.info("%s: %s", stage, said)


def report_end(stage: str, did: str, seconds: float) -> None:
    """Say that `stage` ended and what it did, in words."""
    said = f"done · {did} in {seconds:,.1f} s"
    if listener := _listener.get():
        listener(stage, 1, 1, said)
    else:
        logger.info("%s: %s", stage, said)


def stage(*, retries: int = 0) -> Callable[[F], F]:
    """Make a stage of a function from the pipeline, and refs, to a ref; `retries` where trying again can help."""

    def decorate(function: F) -> F:
        name = function.__name__

        @functools.wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            if listener := _listener.get():
                listener(name, 0, None, "")
            started = time.monotonic()
            with timed(name), full_disk_named(getattr(args[0], "folder", Path()), name):
                if flow_run_context() is None:
                    result = function(*args, **kwargs)
                else:
                    from pairloom.tasks.prefect_task import prefect_task

                    with _shown(name, args[0].name) as bar:
                        result = prefect_task(function, retries)(*args, **kwargs)
                        bar.end(result.summary)
            if (left := _refs.get()) is not None:
                left[name] = result
            report_end(name, result.summary, time.monotonic() - started)
            return result

        return cast(F, call)

    return decorate


@contextmanager
def _shown(stage: str, pipeline: str) -> "Iterator[ProgressBar]":
    """Have the page of this flow run show the progress of what runs inside."""
    from pairloom.tasks.progress_bar import ProgressBar

    with ProgressBar(stage, pipeline) as bar:
        before = _bar.set(bar)
        try:
            yield bar
        finally:
            _bar.reset(before)


def flow_run_context() -> "FlowRunContext | None":
    """That of the Prefect flow run which this is called in. Where nobody has imported Prefect there can be none."""
    if "prefect" not in sys.modules:
        return None
    from prefect.context import FlowRunContext

    return FlowRunContext.get()
