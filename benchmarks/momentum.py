"""Does a queue of past embeddings help a small batch? Recall on emoji at equal steps, with and without.

    python -m benchmarks.momentum --seeds 0 1 2 --results FILE

Four arms of batch 64, equal but for the objective: CLIP's loss; momentum contrast without a queue, so that the moving
average is told from the queue; with a queue of 4,096; and CLIP's loss and that, added. Recalls are of concepts that
training never saw, and in-catalogue of the training items. Appends a JSON line a training to FILE, and prints the table
of all lines in it.
"""

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from benchmarks.bundle import read_collection
from benchmarks.towers import recalls
from models.encoder import Encoder
from models.feed import TrainingItems
from models.objectives.batch import Objective
from models.objectives.clip import ClipConfig
from models.objectives.momentum import MomentumConfig
from models.pixels import AugmentationConfig, open_pixels, write_pixels
from models.towers import ModelConfig, create
from models.trainer import Recipe, TrainingConfig, train

ARMS: dict[str, Sequence[Objective]] = {
    "clip": [ClipConfig()],
    "momentum, no queue": [MomentumConfig(queue=0)],
    "momentum, queue 4,096": [MomentumConfig(queue=4096)],
    "clip + momentum, queue 4,096": [ClipConfig(weight=0.5), MomentumConfig(queue=4096, weight=0.5)],
}
LIGHT = AugmentationConfig(shift=0.04, scale=0.08, rotation=3, colour=0.05)


def measure(arm: str, steps: int, batch_size: int, seed: int, split: str) -> dict[str, float]:
    """Trains one arm from nothing; recalls on a split, and how long a step took."""
    learn, check = read_collection("emoji", "train"), read_collection("emoji", split)
    config = TrainingConfig(
        max_minutes=None, max_steps=steps, batch_size=batch_size, seed=seed, threads=1, augmentation=LIGHT
    )
    start = create(ModelConfig(architecture="tiny-32"), [text for own in learn.texts for text in own], seed=seed)
    with tempfile.TemporaryDirectory() as folder:
        write_pixels(learn.images, len(learn.images), start.preprocess_cfg, Path(folder) / "pixels.npy")
        items = TrainingItems(tuple(learn.item_ids), open_pixels(Path(folder) / "pixels.npy"), learn.relations)
        cpu = time.process_time()
        result = train(start, items, Recipe(config, ARMS[arm]), workdir=Path(folder) / "run")
        cpu = time.process_time() - cpu
    encoder = Encoder(result.encoder)
    inside = {f"in-catalogue {name}": value for name, value in recalls(encoder, learn).items() if "@1" in name}
    return recalls(encoder, check) | inside | {"CPU ms/step": 1e3 * cpu / result.steps}


def table(lines: Sequence[dict[str, float | str]]) -> str:
    """Mean ± standard deviation over seeds, an arm a row."""
    first = lines[0]
    metrics = [name for name in first if name not in ("arm", "steps", "batch", "seed", "split", "load")]
    rows = [f"| objective | steps | batch | seeds | {' | '.join(metrics)} |", f"|{' --- |' * (len(metrics) + 4)}"]
    for key in dict.fromkeys((line["arm"], line["steps"], line["batch"]) for line in lines):
        own = [line for line in lines if (line["arm"], line["steps"], line["batch"]) == key]
        values = [np.array([float(line[name]) for line in own]) for name in metrics]
        spread = [f"{each.mean():.4g} ± {each.std(ddof=1) if len(each) > 1 else 0:.2g}" for each in values]
        rows.append(f"| {key[0]} | {key[1]} | {key[2]} | {len(own)} | {' | '.join(spread)} |")
    return "\n".join(rows)


def main() -> None:
    """Trains the chosen arms with each seed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arms", nargs="+", choices=list(ARMS), default=list(ARMS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--split", default="val")
    parser.add_argument("--results", type=Path, required=True)
    options = parser.parse_args()
    for seed in options.seeds:
        for arm in options.arms:
            found = measure(arm, options.steps, options.batch, seed, options.split)
            line = {"arm": arm, "steps": options.steps, "batch": options.batch, "seed": seed, **found}
            with options.results.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line | {"load": os.getloadavg()[0]}) + "\n")
    lines = [json.loads(line) for line in options.results.read_text(encoding="utf-8").splitlines()]
    sys.stdout.write(table(lines) + "\n")


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
