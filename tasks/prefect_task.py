"""A stage as a Prefect task: imported inside a flow run only, so that a plain call needs no Prefect."""

import functools
import logging
from collections.abc import Callable
from typing import Any

import prefect
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State
from prefect.context import FlowRunContext
from prefect.logging.handlers import APILogHandler

from pairloom.storage.secrets import redact_record


def prefect_task(function: Callable[..., Any], retries: int) -> Callable[..., Any]:
    """The task of a stage, named after verb and pipeline; `retries` where trying again can help."""
    log_to_prefect()
    return _task(function, retries)


@functools.cache
def _task(function: Callable[..., Any], retries: int) -> Callable[..., Any]:
    name = function.__name__
    # Stages remember by content what they did: Prefect's own cache would only hash the same refs again.
    return prefect.task(
        name=name,
        task_run_name=f"{name}-{{pipeline.name}}",
        retries=retries,
        retry_delay_seconds=[10.0 * 3**attempt for attempt in range(retries)],
        retry_condition_fn=_may_pass,
        cache_policy=NO_CACHE,
    )(function)


def _may_pass(_task: object, _run: object, state: State[Any]) -> bool:
    """Whether trying again can help: bad input stays bad, a disk or a network may come back."""
    try:
        state.result()
    except OSError:
        return True
    except Exception:
        return False
    return False


def log_to_prefect() -> None:
    """Have our loggers write to the flow run's page, wherever the run was started: no setting can be forgotten."""
    ours = logging.getLogger("pairloom")
    if not any(isinstance(handler, APILogHandler) for handler in ours.handlers):
        handler = APILogHandler()
        # It outlives the run, and would warn about whatever is logged after it.
        handler.addFilter(lambda _record: FlowRunContext.get() is not None)
        handler.addFilter(redact_record)
        ours.addHandler(handler)
        ours.setLevel(logging.INFO)
