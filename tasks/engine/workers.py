"""The seam through which stages map over parts: a worker is opened once, and does one job after another.

A job names its inputs (parts, digests, item ids), and what is made of it is in a file of its own, or small: it can be
done anywhere, and twice.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol, TypeVar

from pairloom.tasks.engine.config import EngineConfig, SpreadStage

J = TypeVar("J")
D = TypeVar("D")
J_contra = TypeVar("J_contra", contravariant=True)
D_co = TypeVar("D_co", covariant=True)

Work = Callable[[J], D]
"""What an open worker does with a job."""


class Workers(Protocol[J, D_co]):
    """Workers of one stage, all alike."""

    def __call__(self, jobs: Iterable[J]) -> Iterator[tuple[J, D_co]]:
        """Each job with what was made of it, in order; jobs are taken a little ahead. Raises what a worker raised."""


def workers(
    engine: EngineConfig, stage: SpreadStage, opened: Callable[[], Work[J, D]]
) -> AbstractContextManager[Workers[J, D]]:
    """Workers of a stage, for as long as the context lasts; each is what `opened` returns, once there is a job for it.

    On a Ray cluster `opened` and the jobs are pickled. Raises ConnectionError, in one line, where the cluster can't be
    reached, and ValueError where Ray isn't installed.
    """
    if engine.kind == "local":
        return _here(opened)
    from pairloom.tasks.engine.ray_workers import ray_workers

    return ray_workers(engine, stage, opened)


@contextmanager
def _here(opened: Callable[[], Work[J, D]]) -> Iterator[Workers[J, D]]:
    found: list[Work[J, D]] = []

    def run(jobs: Iterable[J]) -> Iterator[tuple[J, D]]:
        for job in jobs:
            if not found:
                found.append(opened())
            yield job, found[0](job)

    yield run
