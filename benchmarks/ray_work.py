"""Work for workers of a Ray cluster, in measurements and tests: a module that they can import, and soon."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import ray

from pairloom.models.fitness import UnfitModelError
from pairloom.storage.files import DamagedError

if TYPE_CHECKING:
    from pairloom.models.mining.neighbours import Neighbours
    from pairloom.tasks.mining.searching import Block

NEIGHBOURS = 32


def random_searcher(count: int, dimension: int) -> "Callable[[Block], Neighbours]":
    """What searches so many random items, as a worker of mining does those of a corpus."""
    from pairloom.models.batches.relations import Relations
    from pairloom.models.mining.lists import Searcher
    from pairloom.models.mining.positives import KnownPositives

    sides = np.random.default_rng(0).standard_normal((2, count, dimension), np.float32)
    sides /= np.linalg.norm(sides, axis=2, keepdims=True)
    ids = [str(number) for number in range(count)]
    relations = Relations.build(ids, [None] * count, [[each] for each in ids], [None] * count)
    searcher = Searcher(sides[0], sides[1], KnownPositives(relations), NEIGHBOURS)
    return lambda block: searcher(block.direction, block.rows_Q, block.among_C)


def noting(folder: Path) -> Callable[[int], int]:
    """What notes in a folder who began a job, waits until the folder holds `go`, and returns the job's square."""

    def work(job: int) -> int:
        (folder / f"{job}-{ray.get_runtime_context().get_node_id()}").touch()
        while not (folder / "go").exists():
            time.sleep(0.01)
        return job * job

    return work


def refusing() -> Callable[[int], int]:
    """What can't do the job 2."""

    def work(job: int) -> int:
        if job == 2:
            raise UnfitModelError("job 2 can't be done")
        return job

    return work


def not_opening() -> Callable[[int], int]:
    """What can't even be opened."""
    raise DamagedError("the model is damaged")
