"""Whose turn it is: the next request that may start, so that no host is asked too much and none waits for another."""

import heapq
import itertools
from collections import deque
from dataclasses import dataclass, field
from typing import Generic, TypeVar

J = TypeVar("J")


@dataclass
class _Host(Generic[J]):
    waiting: deque[J] = field(default_factory=deque)
    active: int = 0
    failures: int = 0
    """In a row."""
    resumes: float = 0.0
    given_up: bool = False
    queued: bool = False
    """Whether it stands among those that may have a turn."""


class Turns(Generic[J]):
    """Jobs waiting for their hosts, each with at most `per_host` under way; hosts take turns. Times are in seconds."""

    def __init__(self, per_host: int, give_up_after: int) -> None:
        self._per_host = per_host
        self._give_up_after = give_up_after
        self._hosts: dict[str, _Host[J]] = {}
        self._queue: deque[str] = deque()
        self._later: list[tuple[float, int, str, J | None]] = []
        self._count = itertools.count()

    def add(self, host: str, job: J) -> None:
        """Let a job wait for its turn."""
        self._at(host).waiting.append(job)
        self._enqueue(host)

    def resume(self, host: str, job: J) -> None:
        """The same for a job that has begun: it is the first of its host's."""
        self._at(host).waiting.appendleft(job)
        self._enqueue(host)

    def add_later(self, host: str, job: J, when: float) -> None:
        """Let a job wait from then on."""
        heapq.heappush(self._later, (when, next(self._count), host, job))

    def take(self, now: float) -> tuple[str, J] | None:
        """The next job that may start, and its host; None where all have to wait."""
        while self._later and self._later[0][0] <= now:
            _, _, host, job = heapq.heappop(self._later)
            if job is not None:
                self._at(host).waiting.append(job)
            self._enqueue(host)
        while self._queue:
            host = self._queue.popleft()
            state = self._hosts[host]
            state.queued = False
            if not state.waiting or (state.active >= self._per_host and not state.given_up):
                continue
            if now < state.resumes and not state.given_up:
                heapq.heappush(self._later, (state.resumes, next(self._count), host, None))
                continue
            state.active += 1
            found = state.waiting.popleft()
            self._enqueue(host)
            return host, found
        return None

    def next_time(self) -> float | None:
        """When the next job may start though nothing ends; None where that helps nobody."""
        return self._later[0][0] if self._later else None

    def ended(self, host: str, *, answered: bool) -> None:
        """Take down that a job of `host` is no longer under way, and whether the host did what it should."""
        state = self._at(host)
        state.active -= 1
        state.failures = 0 if answered else state.failures + 1
        state.given_up |= state.failures >= self._give_up_after
        self._enqueue(host)

    def pause(self, host: str, until: float) -> None:
        """Start nothing at `host` before then."""
        state = self._at(host)
        state.resumes = max(state.resumes, until)

    def give_up(self, host: str) -> None:
        """Ask `host` no more: its jobs get their turns at once, only to be told so."""
        self._at(host).given_up = True
        self._enqueue(host)

    def given_up(self, host: str) -> bool:
        """Whether `host` shall not be asked any more."""
        return self._at(host).given_up

    def _at(self, host: str) -> _Host[J]:
        return self._hosts.setdefault(host, _Host())

    def _enqueue(self, host: str) -> None:
        state = self._hosts[host]
        if state.waiting and not state.queued:
            state.queued = True
            self._queue.append(host)
