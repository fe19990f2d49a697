"""Target distances of sampled pairs of images by a costly metric, for embeddings to learn."""

# N = images, G = cells of the grid, M = pairs, S = cells with ink

import contextlib
import itertools
import multiprocessing
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from pairloom.models.arrays import Indices, available_cpus
from pairloom.models.child_process import follow_parent, unheard_by_children
from pairloom.models.mining.config import DistancesConfig

Masses = npt.NDArray[np.float64]

_PAIRS_AT_ONCE = 2_000
_BACKENDS = ("PYTORCH", "JAX", "CUPY", "TENSORFLOW")


def masses(images: Iterable[Image.Image], config: DistancesConfig) -> Masses:
    """Each image's ink on the grid (N, G), 1 in all; a picture without ink counts as evenly inked."""
    side = config.side
    grey = [image.convert("L").resize((side, side), Image.Resampling.BOX) for image in images]
    mass_NG = np.array([np.asarray(each, dtype=np.float64).ravel() for each in grey]).reshape(-1, side * side)
    mass_NG = mass_NG if config.ink == "bright" else 255 - mass_NG
    mass_NG[mass_NG.sum(axis=1) == 0] = 1
    inked_NG: Masses = mass_NG / mass_NG.sum(axis=1, keepdims=True)
    return inked_NG


def sampled_pairs(count: int, per_item: int, *, seed: int) -> tuple[Indices, Indices]:
    """Random pairs of `count` items, each once, the lower row number first: every item draws `per_item` others."""
    per_item = min(per_item, count - 1)
    others_NK = np.random.default_rng(seed).integers(max(count - 1, 1), size=(count, max(per_item, 0)))
    others_NK += others_NK >= np.arange(count)[:, None]  # never itself
    ends = np.stack([np.repeat(np.arange(count), others_NK.shape[1]), others_NK.ravel()])
    keys = np.unique(ends.min(axis=0) * count + ends.max(axis=0))
    return keys // max(count, 1), keys % max(count, 1)


def grid_costs(side: int, order: int) -> Masses:
    """Cost of a unit of mass between any two cells of the grid (G, G)."""
    place_G2 = np.stack(np.meshgrid(np.arange(side), np.arange(side), indexing="ij"), axis=-1).reshape(-1, 2)
    way_GG: Masses = np.linalg.norm(place_G2[:, None] - place_G2[None], axis=2)
    return way_GG**order


def wasserstein(first_G: Masses, second_G: Masses, cost_GG: Masses, order: int) -> float:
    """The exact distance of two pictures (Kantorovich; the network simplex of Bonneel et al. 2011)."""
    first_S, second_S = np.flatnonzero(first_G), np.flatnonzero(second_G)
    costs_SS = np.ascontiguousarray(cost_GG[np.ix_(first_S, second_S)])
    work = _ot().emd2(first_G[first_S], second_G[second_S], costs_SS)
    return float(max(float(work), 0.0) ** (1 / order))


def distances(
    mass_NG: Masses,
    pairs: tuple[Indices, Indices],
    config: DistancesConfig,
    progress: Callable[[float], None] = lambda _share: None,
) -> npt.NDArray[np.float32]:
    """The distance of each of M pairs, computed in as many processes as there are CPUs for this one.

    ValueError where POT isn't installed.
    """
    _ot()
    firsts_M, seconds_M = pairs
    starts = range(0, len(firsts_M), _PAIRS_AT_ONCE)
    chunks = [slice(start, start + _PAIRS_AT_ONCE) for start in starts]
    jobs = ((mass_NG[firsts_M[chunk]], mass_NG[seconds_M[chunk]], config) for chunk in chunks)
    found = []
    with _mapping(min(available_cpus(), len(chunks))) as run:
        for done, values in enumerate(run(_chunk_distances, jobs), 1):
            found.append(values)
            progress(done / len(chunks))
    return np.concatenate([np.empty(0, np.float32), *found])


def _chunk_distances(job: tuple[Masses, Masses, DistancesConfig]) -> npt.NDArray[np.float32]:
    first_MG, second_MG, config = job
    cost_GG = grid_costs(config.side, config.order)
    pairs = zip(first_MG, second_MG, strict=True)
    return np.array([wasserstein(*pair, cost_GG, config.order) for pair in pairs], dtype=np.float32)


@contextmanager
def _mapping(processes: int) -> Iterator[Callable[..., Iterator[npt.NDArray[np.float32]]]]:
    """`map`, in processes where several are wanted, a few jobs ahead, results in order."""
    if processes < 2:
        yield map
        return
    # Neither torch's threads nor open files are carried over. An executor has locks that an interrupt can leave held.
    context = multiprocessing.get_context("spawn")
    pipes = [context.Pipe() for _ in range(processes)]
    workers = [context.Process(target=_work, args=(theirs,), daemon=True) for _, theirs in pipes]

    def run(function: Callable[..., Any], jobs: Iterator[Any]) -> Iterator[Any]:
        turns = itertools.cycle([ours for ours, _ in pipes])
        running: deque[Connection] = deque()
        while True:
            for job in itertools.islice(jobs, 2 * processes - len(running)):
                running.append(next(turns))
                running[-1].send((function, job))
            if not running:
                return
            found = running.popleft().recv()
            if isinstance(found, Exception):
                raise found
            yield found

    try:
        with unheard_by_children():
            for worker in workers:
                worker.start()
        for _, theirs in pipes:
            theirs.close()
        yield run
    except (EOFError, BrokenPipeError, ConnectionResetError) as error:
        raise RuntimeError("a process that computes distances has died") from error
    finally:
        for worker in workers:
            if worker.is_alive():
                worker.kill()
                worker.join()


def _work(jobs: "Connection[Any, Any]") -> None:
    follow_parent()
    _prepare()
    with contextlib.suppress(EOFError):
        while True:
            function, job = jobs.recv()
            try:
                jobs.send(function(job))
            except Exception as error:  # handed to whoever asks for the result
                jobs.send(error)


def _prepare() -> None:
    # POT imports every tensor library that it finds: seconds, for nothing.
    os.environ |= {f"POT_BACKEND_DISABLE_{name}": "1" for name in _BACKENDS}
    os.environ |= {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}


def _ot() -> Any:
    try:
        import ot
    except ImportError as error:
        raise ValueError("mining.distances needs POT: pip install pairloom[objectives]") from error
    return ot
