"""Workers of a stage as actors on a Ray cluster. One that is lost, with its node or alone, costs the job it was at.

Ray restarts an actor, and calls it again, where there is room for it; where a node is gone for good there may be none,
and the job would wait for ever. So a lost worker's job goes to the next one that is free, and a new one is asked for.
"""

import logging
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

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
    lost: list[str] = field(default_factory=list)
    """What became of the workers that were at it."""


class _Pool(Generic[J, D]):
    """Every worker is starting, idle or busy with one job."""

    def __init__(self, engine: EngineConfig, stage: SpreadStage, opened: Callable[[], Work[J, D]]) -> None:
        self._engine, self._stage, self._opened = engine, stage, opened
        self._wanted = engine.of(stage)
        self._connection = ExitStack()
        self._kind: Any = None
        self._starting: dict[ray.ObjectRef[Any], ActorHandle] = {}
        self._asked: dict[ray.ObjectRef[Any], ActorHandle] = {}
        """Idle ones that may be lost, too."""
        self._idle: list[ActorHandle] = []
        self._busy: dict[ray.ObjectRef[Any], tuple[ActorHandle, _Given[J]]] = {}
        self._waiting: deque[_Given[J]] = deque()
        self._starts_lost = 0
        self._most = 0
        self._looked = self._moved = 0.0

    def __enter__(self) -> "_Pool[J, D]":
        return self

    def __exit__(self, *_: object) -> None:
        self._end([*self._starting.values(), *self._asked.values(), *self._idle])
        self._connection.close()

    def run(self, jobs: Iterable[J]) -> Iterator[tuple[J, D]]:
        """Each job with what was made of it, in order."""
        source, taken, following = enumerate(jobs), True, 0
        done: dict[int, tuple[J, D]] = {}
        self._moved = time.monotonic()
        try:
            while taken or self._waiting or self._busy or done:
                while following in done:
                    yield done.pop(following)
                    following += 1
                while taken and self._has_room(len(done)):
                    taken = (job := next(source, None)) is not None
                    if job is not None:
                        self._waiting.append(_Given(*job))
                        self._give()
                self._give()
                if self._busy or self._waiting:
                    self._listen(done)
        finally:
            # Whoever stops asking leaves nothing for the next run; the workers are ended where they are.
            self._waiting.clear()
            self._end([worker for worker, _ in self._busy.values()])
            self._busy.clear()

    def _has_room(self, done: int) -> bool:
        """Whether to take a further job: the first one, whatever room the cluster has."""
        taken = len(self._waiting) + len(self._busy) + done
        return taken == 0 or taken < AHEAD * self._capacity()

    def _capacity(self) -> int:
        """How many workers there may be, as of a moment ago at most."""
        if not self._looked:
            self._connection.enter_context(connected(self._engine))
        if time.monotonic() - self._looked > LOOK_SECONDS:
            found = room(self._wanted)
            if not found and self._most == 0:
                logger.warning("%s: no node has room for a worker yet; %s", self._stage, self._lacking())
            self._most = max(self._wanted.workers or found, 1)
            self._looked = time.monotonic()
        return self._most

    def _give(self) -> None:
        """Hand out what waits, and ask for the workers that are lacking."""
        while self._waiting and self._idle:
            worker, given = self._idle.pop(), self._waiting.popleft()
            self._busy[worker.do.remote(given.job)] = worker, given
        coming = len(self._starting) + len(self._asked)
        if len(self._waiting) > coming:
            there = coming + len(self._idle) + len(self._busy)
            for _ in range(min(len(self._waiting) - coming, self._capacity() - there)):
                self._start()

    def _start(self) -> None:
        wanted = self._wanted
        if self._kind is None:
            takes = {
                "num_cpus": wanted.num_cpus,
                "num_gpus": wanted.num_gpus,
                "memory": (wanted.memory_mb or 0) * 2**20,
            }
            self._kind = ray.remote(**takes)(Worker)
        worker = self._kind.remote()
        self._starting[worker.open.remote(self._opened, wanted, package_versions())] = worker

    def _listen(self, done: dict[int, tuple[J, D]]) -> None:
        """Wait until a worker has something to say, but no longer than a moment."""
        ready, _ = ray.wait([*self._busy, *self._asked, *self._starting], num_returns=1, timeout=LOOK_SECONDS)
        for ref in ready:
            self._moved = time.monotonic()
            if ref in self._starting:
                self._started(ref, self._starting.pop(ref))
            elif ref in self._asked:
                self._answered(ref, self._asked.pop(ref))
            else:
                worker, given = self._busy.pop(ref)
                self._finished(ref, worker, given, done)
        if not (self._idle or self._busy) and time.monotonic() - self._moved > 60 * self._engine.wait_minutes:
            raise RuntimeError(
                f"{self._stage}: no worker came in {self._engine.wait_minutes:g} minutes; {self._lacking()}"
            )

    def _started(self, ref: "ray.ObjectRef[Any]", worker: ActorHandle) -> None:
        try:
            machine = _result(ref)
        except RayError as error:
            self._end([worker])
            self._starts_lost += 1
            said = f"{self._stage}: {self._starts_lost} workers could not start: {_said(error)}"
            if self._starts_lost >= self._engine.attempts:
                raise RuntimeError(said) from error
            logger.warning("%s", said)
        except BaseException:
            self._end([worker])
            raise
        else:
            logger.info("%s: a worker has started on %s", self._stage, machine)
            self._starts_lost = 0
            self._idle.append(worker)

    def _answered(self, ref: "ray.ObjectRef[Any]", worker: ActorHandle) -> None:
        try:
            _result(ref)
            self._idle.append(worker)
        except RayError:
            self._end([worker])

    def _finished(
        self, ref: "ray.ObjectRef[Any]", worker: ActorHandle, given: _Given[J], done: dict[int, tuple[J, D]]
    ) -> None:
        try:
            done[given.number] = given.job, _result(ref)
        except RayError as error:
            # Of one that is only out of reach nobody knows what it is at.
            self._end([worker])
            self._give_again(given, error)
        except BaseException:
            self._idle.append(worker)
            raise
        else:
            self._idle.append(worker)

    def _give_again(self, given: _Given[J], error: RayError) -> None:
        given.lost.append(_said(error))
        if len(given.lost) >= self._engine.attempts:
            over = f"{len(given.lost)} workers were lost over one job"
            raise RuntimeError(f"{self._stage}: {over}: {given.lost[-1]}") from error
        logger.warning("%s: a worker is lost, its job goes to another one: %s", self._stage, given.lost[-1])
        self._waiting.appendleft(given)
        # What took that one may have taken others, and no job should find out.
        self._asked |= {each.answer.remote(): each for each in self._idle}
        self._idle.clear()

    def _lacking(self) -> str:
        wanted = self._wanted
        takes = ", ".join(
            f"{name} {value:g}" for name, value in wanted.model_dump(exclude={"workers"}).items() if value
        )
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
