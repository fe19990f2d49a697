"""The triplet loss with hard negatives beside random ones, at equal steps, over handwritten digits: a Markdown table.

    python -m benchmarks.rendered digits .pairloom/rendered/digits
    python -m benchmarks.triplets --digits .pairloom/rendered/digits --steps 60 --seeds 5

Within a seed all contestants start from the same weights and see the same anchors in the same order; only the choice of
negatives differs. Mined batches bring a quarter of their items as hard negatives that the network itself mines every 20
steps, the others bring random items. Every contestant is asked on the validation digits, which training never sees:
the digit told by the 5 nearest training digits, and MAP@R of the validation digits among themselves.
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from pairloom.models.batches.config import AugmentationConfig
from pairloom.models.batches.feed import TrainingItems
from pairloom.models.batches.pixels import normalize_pixels, open_pixels, write_pixels
from pairloom.models.batches.relations import Relations
from pairloom.models.geometry import Pixels
from pairloom.models.mining.config import MiningConfig
from pairloom.models.objectives.config import Choice, TripletConfig
from pairloom.models.towers.config import ModelConfig
from pairloom.models.towers.creation import create
from pairloom.models.towers.dual_encoder import DualEncoder
from pairloom.models.training.config import TrainingConfig
from pairloom.models.training.trainer import Recipe, train

ARCHITECTURE = Path(__file__).parent / "objectives" / "digits-16.json"
AUGMENTATION = AugmentationConfig(shift=0.06, scale=0.1, rotation=10, colour=0.1)


@dataclass(frozen=True)
class Contestant:
    """A way to choose negatives."""

    name: str
    choose: Choice
    hard_fraction: float = 0.0


CONTESTANTS = (
    Contestant("random", "random"),
    Contestant("all", "all"),
    Contestant("hardest", "hardest"),
    Contestant("semi_hard", "semi_hard"),
    Contestant("random of a mined batch", "random", 0.25),
)


@dataclass(frozen=True)
class Digits:
    """Pixels and digits of one split."""

    pixels: Pixels
    labels: Sequence[str]


def read_digits(folder: Path, split: str, workdir: Path) -> Digits:
    """One split of `benchmarks.rendered`'s digits."""
    lines = (folder / "captions.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [row for row in map(json.loads, lines) if row["split"] == split]
    images = (Image.open(folder / row["image"]) for row in rows)
    labels = [row["group"] for row in rows]
    preprocess = dict(fresh(labels, 0).preprocess_cfg)
    write_pixels(images, len(rows), preprocess, workdir / f"{split}.npy")
    return Digits(open_pixels(workdir / f"{split}.npy"), labels)


def fresh(labels: Sequence[str], seed: int) -> DualEncoder:
    """An untrained network."""
    return create(ModelConfig(architecture=str(ARCHITECTURE)), labels, seed=seed)


def trained(contestant: Contestant, digits: Digits, steps: int, seed: int, workdir: Path) -> DualEncoder:
    """The network after `steps`."""
    ids = tuple(str(number) for number in range(len(digits.labels)))
    relations = Relations.build(ids, list(digits.labels), [[label] for label in digits.labels], [None] * len(ids))
    mined = contestant.hard_fraction > 0
    # Empty at first: until something is mined, random items fill the places.
    negatives_NK = np.empty((len(ids), 0), dtype=np.int32) if mined else None
    config = TrainingConfig(
        max_minutes=None,
        max_steps=steps,
        batch_size=128,
        learning_rate=2e-3,
        hard_fraction=contestant.hard_fraction,
        augmentation=AUGMENTATION,
        seed=seed,
        threads=1,
        checkpoint_seconds=3600,
    )
    recipe = Recipe(
        config,
        [TripletConfig(between="image_image", choose=contestant.choose)],
        mining=MiningConfig(refresh_every=20 if mined else None),
    )
    items = TrainingItems(ids, digits.pixels, relations, negatives_NK)
    return train(fresh(digits.labels, seed), items, recipe, workdir=workdir).encoder


def measure(encoder: DualEncoder, learned: Digits, asked: Digits) -> tuple[float, float]:
    """Accuracy of the 5 nearest training digits, and MAP@R among the digits asked."""
    known_ND, asked_MD = (_embeddings(encoder, each.pixels) for each in (learned, asked))
    learned_labels, asked_labels = np.array(learned.labels), np.array(asked.labels)
    nearest_M5 = np.argsort(-asked_MD @ known_ND.T, axis=1, kind="stable")[:, :5]
    right = []
    for row, nearest in enumerate(nearest_M5):
        names, counts = np.unique(learned_labels[nearest], return_counts=True)
        right.append(names[counts.argmax()] == asked_labels[row])
    score_MM = asked_MD @ asked_MD.T
    np.fill_diagonal(score_MM, -np.inf)
    precisions = []
    for row, order in enumerate(np.argsort(-score_MM, axis=1, kind="stable")):
        relevant = asked_labels[order] == asked_labels[row]
        relevant = relevant[: (asked_labels == asked_labels[row]).sum() - 1]
        precisions.append((relevant * relevant.cumsum() / np.arange(1, len(relevant) + 1)).mean())
    return float(np.mean(right)), float(np.mean(precisions))


def _embeddings(encoder: DualEncoder, pixels: Pixels) -> np.ndarray:
    encoder.network.eval()
    with torch.inference_mode():
        return encoder.encode_images(normalize_pixels(pixels, encoder.preprocess_cfg)).numpy()


def main() -> None:
    """Prints the table, a row a contestant."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--digits", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--seeds", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(1)
    found: dict[str, list[tuple[float, float]]] = {each.name: [] for each in CONTESTANTS}
    with tempfile.TemporaryDirectory() as folder:
        learned, asked = (read_digits(options.digits, split, Path(folder)) for split in ("train", "val"))
        for seed in range(options.seeds):
            for number, each in enumerate(CONTESTANTS):
                encoder = trained(each, learned, options.steps, seed, Path(folder) / f"{seed}-{number}")
                found[each.name].append(measure(encoder, learned, asked))
                sys.stderr.write(f"seed {seed} {each.name}: {found[each.name][-1]}\n")
    sys.stdout.write(f"{options.steps} steps, {options.seeds} seeds, load {os.getloadavg()[0]:.1f}\n\n")
    sys.stdout.write("| negatives | kNN | of each seed | MAP@R | of each seed | seeds above random |\n")
    sys.stdout.write(f"|{' --- |' * 6}\n")
    for name, figures in found.items():
        knn, precision = zip(*figures, strict=True)
        better = sum(own[1] > base[1] for own, base in zip(figures, found["random"], strict=True))
        cells = [f"{statistics.mean(knn):.4f}", ", ".join(f"{each:.3f}" for each in knn)]
        cells += [f"{statistics.mean(precision):.4f}", ", ".join(f"{each:.3f}" for each in precision)]
        sys.stdout.write(f"| {name} | {' | '.join(cells)} | {better} of {len(figures)} |\n")


if __name__ == "__main__":
    main()
