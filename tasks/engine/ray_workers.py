"""Workers of a stage as actors on a Ray cluster. One that is lost, with its node or alone, costs the job it was at.

Ray restarts an actor, and calls it again, where there is room for it; where a node is gone for good there may be none,
and the job would wait for ever. So a lost worker's job goes to the next one that is free, and a new one is asked for.
"""

import logging
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Generic, Literal, TypeVar

import ray
from ray.actor import ActorHandle
from ray.exceptions import RayError, RayTaskError

from pairloom.tasks.engine.cluster import connected, room
from pairloom.tasks.engine.config import EngineConfig, SpreadStage
from pairloom.tasks.engine.worker import Worker, package_versions
from pairloom.tasks.engine.workers import Work, Workers

logger = logging.getLogger(__name__)

AHEAD = 2
"""Jobs a worker that are taken before the first of them is done."""
LOOK_SECONDS = 1.0
"""How long it may take until a cluster's new room is seen."""

J = TypeVar("J")
D = TypeVar("D")


@contextmanager
def ray_workers(engine: EngineConfig, stage: SpreadStage, opened: Callable[[], Work[J, D]]) -> Iterator[Workers[J, D]]:
    """As `pairloom.tasks.engine.workers.workers`. The cluster is asked for once there is a job."""
    with _Pool(engine, stage, opened) as pool:
        yield pool.run


@dataclass
class _Given(Generic[J]):
    """A job that is not done."""

    number: int
    job: J
    lost: int = 0
    """How many workers were lost while they were at it."""


@dataclass(frozen=True)
class _Call(Generic[J]):
    """What a worker has been asked, and not answered yet."""

    what: Literal["come", "open", "answer", "do"]
    """To `come` up on some node is what a new one is asked first, to `answer` what an idle one is that may be lost."""
    worker: ActorHandle
    given: _Given[J] | None = None


class _Pool(Generic[J, D]):
    """The workers, all of them asked something or idle."""

    def __init__(self, engine: EngineConfig, stage: SpreadStage, opened: Callable[[], Work[J, D]]) -> None:
        self._engine, self._stage, self._opened = engine, stage, opened
        self._wanted = engine.of(stage)
        self._connection = ExitStack()
        self._kind: Any = None
        self._calls: dict[ray.ObjectRef[Any], _Call[J]] = {}
        self._idle: list[ActorHandle] = []
        self._waiting: deque[_Given[J]] = deque()
        self._done: dict[int, tuple[J, D]] = {}
        self._never_opened = 0
        """Workers in a row that were lost before they were open."""
        self._most = 0
        self._looked = self._moved = 0.0

    def __enter__(self) -> "_Pool[J, D]":
        return self

    def __exit__(self, *_: object) -> None:
        self._end([*self._idle, *(call.worker for call in self._calls.values())])
        self._connection.close()

    def run(self, jobs: Iterable[J]) -> Iterator[tuple[J, D]]:
        """Each job with what was made of it, in order."""
        source, more, following = enumerate(jobs), True, 0
        self._moved = time.monotonic()
        try:
            while more or self._pending or self._done:
                while following in self._done:
                    yield self._done.pop(following)
                    following += 1
                while more and self._has_room():
                    more = (job := next(source, None)) is not None
                    if job is not None:
                        self._waiting.append(_Given(*job))
                        self._give()
                self._give()
                if self._pending:
                    self._listen()
        finally:
            # Whoever stops asking leaves nothing for the next run; workers that are at something are ended there.
            self._waiting.clear()
            self._done.clear()
            for ref in [ref for ref, call in self._calls.items() if call.what == "do"]:
                self._end([self._calls.pop(ref).worker])

    @property
    def _pending(self) -> int:
        """Jobs that are taken and not done."""
        return len(self._waiting) + self._count("do")

    def _count(self, *what: str) -> int:
        return sum(call.what in what for call in self._calls.values())

    def _has_room(self) -> bool:
        """Whether to take a further job: the first one, whatever room the cluster has."""
        taken = self._pending + len(self._done)
        return taken == 0 or taken < AHEAD * self._capacity()

    def _capacity(self) -> int:
        """How many workers there may be, as of a moment ago at most."""
        if not self._looked:
            self._connection.enter_context(connected(self._engine))
        if time.monotonic() - self._looked > LOOK_SECONDS:
            found = room(self._wanted)
            if not found and not self._looked:
                logger.warning("%s: no node has room for a worker yet; %s", self._stage, self._lacking())
            self._most = max(self._wanted.workers or found, 1)
            self._looked = time.monotonic()
        return self._most

    def _give(self) -> None:
        """Hand out what waits, and ask for the workers that are lacking."""
        while self._waiting and self._idle:
            given = self._waiting.popleft()
            self._ask("do", self._idle.pop(), given.job, given=given)
        coming = self._count("come", "open", "answer")
        if len(self._waiting) > coming:
            there = len(self._idle) + len(self._calls)
            for _ in range(min(len(self._waiting) - coming, self._capacity() - there)):
                self._ask("come", self._new())

    def _new(self) -> ActorHandle:
        wanted = self._wanted
        if self._kind is None:
            memory = (wanted.memory_mb or 0) * 2**20
            self._kind = ray.remote(num_cpus=wanted.num_cpus, num_gpus=wanted.num_gpus, memory=memory)(Worker)
        return self._kind.remote()

    def _ask(
        self,
        what: Literal["come", "open", "answer", "do"],
        worker: ActorHandle,
        *arguments: object,
        given: _Given[J] | None = None,
    ) -> None:
        method = {"come": worker.answer, "open": worker.open, "answer": worker.answer, "do": worker.do}[what]
        self._calls[method.remote(*arguments)] = _Call(what, worker, given)

    def _listen(self) -> None:
        """Wait until a worker has answered, but no longer than a moment."""
        ready, _ = ray.wait([*self._calls], num_returns=1, timeout=LOOK_SECONDS)
        for ref in ready:
            self._moved = time.monotonic()
            call = self._calls.pop(ref)
            try:
                answer = _result(ref)
            except RayError as error:
                # Of one that is only out of reach nobody knows what it is at.
                self._end([call.worker])
                self._lost(call, _said(error))
            except BaseException:
                self._end([call.worker])
                raise
            else:
                self._answered(call, answer)
        # Whoever is there may take its time.
        if not self._idle and not self._count("open", "do"):
            minutes = (time.monotonic() - self._moved) / 60
            if minutes > self._engine.wait_minutes:
                raise RuntimeError(f"{self._stage}: no worker came in {minutes:.0f} minutes; {self._lacking()}")

    def _answered(self, call: _Call[J], answer: Any) -> None:
        if call.what == "come":
            self._ask("open", call.worker, self._opened, self._wanted, package_versions())
            return
        if call.what == "open":
            logger.info("%s: a worker has started on %s", self._stage, answer)
            self._never_opened = 0
        if call.given is not None:
            self._done[call.given.number] = call.given.job, answer
        self._idle.append(call.worker)

    def _lost(self, call: _Call[J], said: str) -> None:
        if call.what == "answer":
            return
        if call.given is None:
            self._never_opened += 1
            said = f"{self._stage}: {self._never_opened} workers could not start: {said}"
            if self._never_opened >= self._engine.attempts:
                raise RuntimeError(said)
            logger.warning("%s", said)
            return
        call.given.lost += 1
        if call.given.lost >= self._engine.attempts:
            raise RuntimeError(f"{self._stage}: {call.given.lost} workers were lost over one job: {said}")
        logger.warning("%s: a worker is lost, its job goes to another one: %s", self._stage, said)
        self._waiting.appendleft(call.given)
        # What took that one may have taken idle ones, and no job should find out.
        for worker in self._idle:
            self._ask("answer", worker)
        self._idle.clear()

    def _lacking(self) -> str:
        wanted = self._wanted.model_dump(exclude={"workers"})
        takes = ", ".join(f"{name} {value:g}" for name, value in wanted.items() if value)
        there = ray.cluster_resources()
        has = ", ".join(f"{there.get(name, 0):g} {name}" for name in ("CPU", "GPU"))
        return (
            f"engine.{self._stage} takes {takes} each, and the cluster has {has} in all: wait for it, or ask for less"
        )

    def _end(self, some: Iterable[ActorHandle]) -> None:
        for worker in some:
            ray.kill(worker)


def _result(ref: "ray.ObjectRef[Any]") -> Any:
    """What a call returned. Raises what it raised, as it would here, and RayError where it never ended."""
    try:
        return ray.get(ref)
    except RayTaskError as error:
        raise error.cause from error


def _said(error: RayError) -> str:
    return next(filter(None, map(str.strip, str(error).splitlines())), type(error).__name__)
