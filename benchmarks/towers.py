"""Trains candidate architectures on the development collections and prints a Markdown table of what they reach.

python benchmarks/towers.py --seconds 120 --collections grocery emoji --shapes tiny-64 shapes/other.json
"""

import argparse
import json
import os
import sys
import tempfile
import time
from pathlib import Path

import torch

from benchmarks.bundle import Collection, read_collection
from pairloom.models.batches.feed import TrainingItems
from pairloom.models.batches.pixels import open_pixels, write_pixels
from pairloom.models.encoder import Encoder
from pairloom.models.evaluation.config import EvaluationConfig
from pairloom.models.evaluation.metrics import evaluate
from pairloom.models.mining.config import MiningConfig
from pairloom.models.mining.lexical import mine_lexical_negatives
from pairloom.models.mining.negatives import batch_negatives
from pairloom.models.towers.config import ModelConfig
from pairloom.models.towers.creation import create
from pairloom.models.training.config import TrainingConfig
from pairloom.models.training.trainer import Recipe, train


def measure(shape: str, name: str, config: TrainingConfig, workdir: Path) -> dict[str, float]:
    """Trains one architecture from nothing; its speed and recalls."""
    learn, check = read_collection(name, "train"), read_collection(name, "val")
    start = create(ModelConfig(architecture=shape), [text for own in learn.texts for text in own], seed=config.seed)
    write_pixels(learn.images, len(learn.images), start.preprocess_cfg, workdir / "pixels.npy")
    negatives_NK = batch_negatives(mine_lexical_negatives(learn.relations, MiningConfig(), seed=0))
    pixels = open_pixels(workdir / "pixels.npy")
    items = TrainingItems(tuple(learn.item_ids), pixels, learn.relations, negatives_NK)
    cpu = time.process_time()
    result = train(start, items, Recipe(config), workdir=workdir)
    cpu = time.process_time() - cpu
    weights = sum(parameter.numel() for parameter in start.network.parameters())
    speed = {
        "million weights": weights / 1e6,
        "steps": result.steps,
        "steps/s": result.steps / result.seconds,
        "CPU ms/step": 1e3 * cpu / result.steps,
        "loss": result.loss,
    }
    return speed | recalls(Encoder(result.encoder), check)


def recalls(encoder: Encoder, check: Collection) -> dict[str, float]:
    """Recall both ways on a validation split."""
    image_ND, text_TD = encoder.embed_images(check.images), encoder.embed_texts(check.relations.texts)
    metrics = evaluate(image_ND, text_TD, check.relations, EvaluationConfig(), {}).as_dict()
    return {
        key.replace("text_to_image_recall", "t→i").replace("image_to_text_recall", "i→t"): value
        for key, value in metrics.items()
        if key.startswith(("text_to_image_recall", "image_to_text_recall"))
    }


def main() -> None:
    """Prints one row a shape and collection."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", nargs="+", default=["tiny-64"], help="architectures: names or .json files")
    parser.add_argument("--collections", nargs="+", default=["grocery", "emoji"])
    parser.add_argument("--seconds", type=float, default=120)
    parser.add_argument("--set", default="{}", help="other TrainingConfig fields, as JSON")
    options = parser.parse_args()
    config = TrainingConfig(max_minutes=options.seconds / 60, threads=1)
    config = TrainingConfig.model_validate(config.model_dump() | json.loads(options.set))
    titled = False
    for name in options.collections:
        for shape in options.shapes:
            with tempfile.TemporaryDirectory() as folder:
                row = measure(shape, name, config, Path(folder))
            titles = ["shape", "data", *row, "load"]
            values = [f"{Path(shape).stem} {options.set}", name, *(f"{value:.4g}" for value in row.values())]
            if not titled:
                sys.stdout.write(f"| {' | '.join(titles)} |\n|{' --- |' * len(titles)}\n")
                titled = True
            sys.stdout.write(f"| {' | '.join([*values, f'{os.getloadavg()[0]:.1f}'])} |\n")
            sys.stdout.flush()


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
