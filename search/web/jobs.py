"""Work that takes longer than a request: done once in the background, asked for until it is there."""

import logging
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from functools import partial
from queue import SimpleQueue
from typing import Any, Generic, TypeVar, cast

from pydantic import BaseModel

logger = logging.getLogger(__name__)

KEPT = 16
WAITING = 8
"""Jobs that may wait for their turn."""

V = TypeVar("V")
Progress = Callable[[float], None]
"""Hears the share that is done."""


class BusyError(RuntimeError):
    """Too much waits already."""


class Working(BaseModel, frozen=True):
    """What stands in for a result that is being made."""

    done: float
    """The share that is done, from 0 to 1."""


class _Job(Generic[V]):
    def __init__(self, make: Callable[[Progress], V]) -> None:
        self.make = make
        self.done = 0.0
        self.value: V | None = None
        self.error: Exception | None = None
        self.ended = threading.Event()


class Jobs:
    """Runs one job after another in a thread of its own, and keeps the latest results."""

    def __init__(self) -> None:
        self._jobs: OrderedDict[Hashable, _Job[Any]] = OrderedDict()
        self._queue: SimpleQueue[_Job[Any]] = SimpleQueue()
        self._state = threading.Lock()
        self._thread: threading.Thread | None = None

    def get(self, key: Hashable, make: Callable[[Progress], V], *, wait: float = 0.0) -> V | Working:
        """The result for a key, or how far it is after `wait` seconds.

        Raises what `make` raised, once; then it is tried again. BusyError where too much waits.
        """
        with self._state:
            job = self._jobs.get(key)
            if job is None:
                if sum(not each.ended.is_set() for each in self._jobs.values()) >= WAITING:
                    raise BusyError("too much is being worked out: try again in a moment")
                job = self._jobs[key] = _Job(make)
                self._queue.put(job)
                if self._thread is None:
                    self._thread = threading.Thread(target=self._work, name="jobs", daemon=True)
                    self._thread.start()
            self._jobs.move_to_end(key)
        if not job.ended.wait(wait):
            return Working(done=round(min(job.done, 0.99), 3))
        if job.error is not None:
            with self._state:
                self._jobs.pop(key, None)
            raise job.error
        return cast(V, job.value)

    def _work(self) -> None:
        while True:
            job = self._queue.get()
            try:
                job.value = job.make(partial(setattr, job, "done"))
            except Exception as error:  # whoever asks is told
                job.error = error
            job.ended.set()
            with self._state:
                ended = [key for key, each in self._jobs.items() if each.ended.is_set()]
                for key in ended[: max(0, len(ended) - KEPT)]:
                    del self._jobs[key]
