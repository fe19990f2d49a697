"""Learned distances beside exact ones on unseen digits: do they agree, and how much sooner are they there?

    python -m benchmarks.rendered digits .pairloom/rendered/digits
    pairloom run -p digits-wasserstein --file benchmarks/objectives/ordered.yaml
    python -m benchmarks.distance

All pairs of validation digits, which training saw in no pair, by POT's exact solver and by the newest release's
embeddings. Three figures: correlation of the two distances; how many of the ten nearest others are the same; seconds a
distance, on one thread. Timed are

- *stored*: the exact solver from two stored grids of ink; ours from two stored embeddings, all pairs at once;
- *all pairs*: from pictures as they are stored, each shrunk or embedded once, then every distance between them;
- *one pair*: from two pictures that nobody has seen before, shrunk or embedded for this one distance.
"""

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch
from PIL import Image
from scipy.spatial.distance import pdist, squareform  # type: ignore[import-untyped]  # SciPy publishes no types

from benchmarks.collection import Released, print_figures, released
from pairloom.models.encoder import Encoder
from pairloom.models.mining.config import DistancesConfig
from pairloom.models.mining.distances import Masses, grid_costs, masses, wasserstein
from pairloom.models.objectives.distance import learned_scale
from pairloom.storage.corpus import Corpus
from pairloom.tasks.items import images_of

NEIGHBOURS = 10
TIMED_PAIRS = 500

Distances = npt.NDArray[np.float64]


def agreement(exact_NN: Distances, learned_NN: Distances, count: int = NEIGHBOURS) -> float:
    """Share of each item's `count` nearest others by the one that are so by the other."""
    nearest = []
    for distance_NN in (exact_NN, learned_NN):
        others_NN = distance_NN + np.diag(np.full(len(distance_NN), np.inf))
        nearest.append(np.argsort(others_NN, axis=1, kind="stable")[:, :count])
    return float(np.mean([len(set(a) & set(b)) / count for a, b in zip(*map(np.ndarray.tolist, nearest), strict=True)]))


def exact_distances(mass_NG: Masses, config: DistancesConfig) -> Distances:
    """Every pair's, in the order of `pdist`."""
    cost_GG = grid_costs(config.side, config.order)
    firsts_M, seconds_M = np.triu_indices(len(mass_NG), 1)
    return np.array(
        [wasserstein(mass_NG[a], mass_NG[b], cost_GG, config.order) for a, b in zip(firsts_M, seconds_M, strict=True)]
    )


def pictures(found: Released) -> list[Image.Image]:
    """The validation pictures, in the order of the embeddings."""
    ids = pa.array(found.item_ids, pa.string())
    by_place = dict(images_of(Corpus(found.pipeline.folder), found.snapshot, ids))
    return [by_place[place] for place in range(len(found.item_ids))]


def seconds(function: Callable[[], object], repeats: int) -> float:
    """The least of some runs."""
    took = []
    for _ in range(repeats):
        began = time.perf_counter()
        function()
        took.append(time.perf_counter() - began)
    return min(took)


def speeds(found: Released, images: list[Image.Image], config: DistancesConfig) -> dict[str, dict[str, float]]:
    """Microseconds a distance by the exact solver and by embeddings, and their ratio, for each of the three ways."""
    encoder, cost_GG, mass_NG = Encoder.load(found.model), grid_costs(config.side, config.order), masses(images, config)
    scale, count = learned_scale(found.model), len(images)
    all_pairs = count * (count - 1) // 2
    random = np.random.default_rng(0)
    sample = [random.choice(count, 2, replace=False) for _ in range(TIMED_PAIRS)]

    def solve_stored() -> None:
        for a, b in sample:
            wasserstein(mass_NG[a], mass_NG[b], cost_GG, config.order)

    def solve_pictures() -> None:
        for a, b in sample[:50]:
            first_G, second_G = masses([images[a], images[b]], config)
            wasserstein(first_G, second_G, cost_GG, config.order)

    def embed_pictures() -> None:
        for a, b in sample[:50]:
            scale * pdist(encoder.embed_images([images[a], images[b]]))

    stored = seconds(solve_stored, 3) / TIMED_PAIRS
    shrunk = seconds(lambda: masses(images, config), 3)
    timed = {
        "stored": (stored, seconds(lambda: scale * pdist(found.image_ND), 5) / all_pairs),
        "all pairs": (
            stored + shrunk / all_pairs,
            seconds(lambda: scale * pdist(encoder.embed_images(images)), 3) / all_pairs,
        ),
        "one pair": (seconds(solve_pictures, 3) / 50, seconds(embed_pictures, 3) / 50),
    }
    return {
        name: {"exact_us": 1e6 * exact, "learned_us": 1e6 * learned, "times_faster": exact / learned}
        for name, (exact, learned) in timed.items()
    }


def figures(file: Path, name: str) -> dict[str, object]:
    """What the module says."""
    torch.set_num_threads(1)
    found = released(file, name)
    config = found.pipeline.mining.distances
    assert config is not None, "the pipeline learns mined distances"
    images = pictures(found)
    exact_M = exact_distances(masses(images, config), config)
    learned_M = learned_scale(found.model) * pdist(found.image_ND)
    return {
        "pairs": len(exact_M),
        "correlation": float(np.corrcoef(exact_M, learned_M)[0, 1]),
        "mean_relative_error": float(np.mean(np.abs(learned_M - exact_M)) / np.mean(exact_M)),
        f"neighbours_agree@{NEIGHBOURS}": agreement(squareform(exact_M), squareform(learned_M)),
        "speed": speeds(found, images, config),
    }


def main() -> None:
    """Prints the figures as JSON."""
    print_figures(__doc__, "digits-wasserstein", figures)


if __name__ == "__main__":
    main()
