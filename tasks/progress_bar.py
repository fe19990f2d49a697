"""How far a stage is, as a bar on the page of its flow run: imported inside a flow run only."""

import logging
import threading
import time
from contextvars import copy_context
from dataclasses import dataclass
from types import TracebackType
from typing import Self
from uuid import UUID

import httpx
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import ArtifactCreate, ArtifactUpdate
from prefect.context import FlowRunContext
from prefect.exceptions import PrefectException

from pairloom.storage.escaping import markdown_text

logger = logging.getLogger(__name__)

LEAST_SECONDS = 1.0
MOST_SECONDS = 15.0
END_SECONDS = 2.0
"""How long the end of a stage waits for a server that doesn't answer."""


@dataclass(frozen=True)
class Reached:
    """How far it is."""

    percent: float
    said: str


class ProgressBar:
    """A stage's progress artifact. To move it costs an assignment, however often: a thread of its own sends the newest.

    That is once a second at first, and every hundredth of the time that the stage has taken later on, up to 15 s:
    a server keeps an event of each. Where it can't be reached the stage goes on without a bar.
    """

    def __init__(self, stage: str, pipeline: str) -> None:
        self._key = f"progress-{stage}-{pipeline}".replace("_", "-")
        self._stage = stage
        self._reached: Reached | None = None
        self._over = threading.Event()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, error: type[BaseException] | None, _value: object, _trace: TracebackType | None) -> None:
        self._over.set()
        # Who cancels a run waits for nothing.
        if self._thread and error is None:
            self._thread.join(END_SECONDS)

    def move(self, done: float, total: float | None, note: str = "") -> None:
        """Have the bar show that so much is done; without a total it stands at its start, and says how much that is."""
        share = min(done / total, 1.0) if total else 0.0
        counted = f"{done:,.0f} of {total:,.0f}" if total and total > 1 else "" if total else f"{done:,.0f} done"
        self._reached = Reached(100 * share, " · ".join(filter(None, (counted, note))))
        if self._thread is None:
            # The settings of the run are context variables.
            self._thread = threading.Thread(target=copy_context().run, args=(self._send,), name="bar", daemon=True)
            self._thread.start()

    def end(self, did: str) -> None:
        """Have the bar of a stage that has one show its end, and what it did."""
        self._reached = Reached(100.0, did)

    def _send(self) -> None:
        context = FlowRunContext.get()
        assert context is not None, "a bar is of a flow run"
        assert context.flow_run is not None, "a bar is of a flow run"
        try:
            with get_client(sync_client=True) as client:
                self._follow(client, context.flow_run.id)
        except (httpx.HTTPError, PrefectException) as error:
            logger.debug("%s: its bar stands still: %s", self._stage, error)

    def _follow(self, client: SyncPrefectClient, flow_run_id: UUID) -> None:
        began, artifact, shown, over = time.monotonic(), None, None, False
        while not over:
            pause = (time.monotonic() - began) / 100
            over = self._over.wait(min(max(pause, LEAST_SECONDS), MOST_SECONDS))
            now = self._reached
            if now is None or now == shown:
                continue
            said = markdown_text(" · ".join(filter(None, (f"{self._stage}: {now.percent:.0f} %", now.said))))
            if artifact is None:
                # A bar that is there in the end, too, is one that people can look up by its key.
                bar = ArtifactCreate(
                    type="progress", key=self._key, description=said, data=now.percent, flow_run_id=flow_run_id
                )
                artifact = client.create_artifact(bar).id
            else:
                client.update_artifact(artifact, ArtifactUpdate(description=said, data=now.percent))
            shown = now
