"""What our architectures reach in how many CPU seconds, on the development collections: a Markdown table.

    OMP_NUM_THREADS=1 python -m benchmarks.towers --collections emoji --shapes tiny-32 tiny-64 --seconds 40 160
    OMP_NUM_THREADS=1 python -m benchmarks.towers --collections emoji --shapes drawings drawings-pretrained

Trained on the split `train`, asked on `val`, one thread, pictures cut to their content box as ingest does. A tower that
starts in closed form is asked after that start, and after `--steps` steps of training; the others are trained once for
each of `--seconds`. CPU seconds are those of the process: what the trunk makes of the training pictures, the start and
the training; reading pictures and asking aren't in them. With `--styles` each training picture is learned from in three
styles: as it is, in grey, and with its hues turned by chance.
"""

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from benchmarks.bundle import Collection, read_collection
from pairloom.models.batches.feed import TrainingItems
from pairloom.models.batches.pixels import open_pixels, write_pixels
from pairloom.models.batches.relations import Relations
from pairloom.models.encoder import Encoder
from pairloom.models.evaluation.config import EvaluationConfig
from pairloom.models.evaluation.metrics import evaluate
from pairloom.models.mining.config import MiningConfig
from pairloom.models.mining.lexical import mine_lexical_negatives
from pairloom.models.mining.negatives import batch_negatives
from pairloom.models.towers.config import ModelConfig
from pairloom.models.towers.creation import create
from pairloom.models.towers.trunk import frozen_trunk
from pairloom.models.training.closed_start import start_in_closed_form
from pairloom.models.training.config import TrainingConfig
from pairloom.models.training.moved import chosen, moved_apart
from pairloom.models.training.trainer import Recipe, train

SIDES = {"photographs": 192}
"""How large pictures are kept for an architecture, where that isn't as usual."""
ASKED = {"t→i": "text_to_image_recall", "i→t": "image_to_text_recall", "i→i": "image_to_image_recall"}

Row = dict[str, float]


def measure(shape: str, name: str, config: TrainingConfig, asked: argparse.Namespace, workdir: Path) -> Iterator[Row]:
    """Trains one architecture from nothing; its speed and recalls, for each budget or stage of the start."""
    side = SIDES.get(shape)
    learn, check = (read_collection(name, split, side, cut=True) for split in ("train", "val"))
    learn = in_styles(learn, config.seed) if asked.styles else learn
    model, texts = ModelConfig(architecture=shape), [text for own in learn.texts for text in own]
    start = create(model, texts, seed=config.seed)
    negatives_NK = batch_negatives(mine_lexical_negatives(learn.relations, MiningConfig(), seed=0))
    if trunk := frozen_trunk(start, model):
        cpu = time.process_time()
        feature_NF = Encoder(start).features(trunk, [learn.images])
        rows = chosen(learn.item_ids, model.moved_copies)
        pictures = [[learn.images[row] for row in rows]]
        apart_MF = moved_apart(Encoder(start), trunk, pictures, feature_NF[rows], np.arange(len(rows)))
        start_in_closed_form(start, feature_NF, learn.relations, model, seed=config.seed, apart_MF=apart_MF)
        spent = time.process_time() - cpu
        yield {"steps": 0, "CPU s": spent, **recalls(Encoder(start), check)}
        cpu = time.process_time()
        items = TrainingItems(tuple(learn.item_ids), feature_NF, learn.relations, negatives_NK)
        with trunk.aside():
            steps = train(start, items, Recipe(config, model=model), workdir=workdir / "steps").steps
        yield {"steps": steps, "CPU s": spent + time.process_time() - cpu, **recalls(Encoder(start), check)}
        return
    write_pixels(learn.images, len(learn.images), start.preprocess_cfg, workdir / "pixels.npy")
    items = TrainingItems(tuple(learn.item_ids), open_pixels(workdir / "pixels.npy"), learn.relations, negatives_NK)
    for seconds in asked.seconds:
        start = create(model, texts, seed=config.seed)
        own = config.model_copy(update={"max_minutes": seconds / 60, "max_steps": None})
        cpu = time.process_time()
        steps = train(start, items, Recipe(own), workdir=workdir / str(seconds)).steps
        yield {"steps": steps, "CPU s": time.process_time() - cpu, **recalls(Encoder(start), check)}


def in_styles(learn: Collection, seed: int) -> Collection:
    """Each picture as it is, in grey, and with its hues turned; all have the item's group and texts."""
    random = np.random.default_rng(seed)

    def turned(image: Image.Image) -> Image.Image:
        hue, *others = image.convert("HSV").split()
        by = int(random.integers(32, 224))
        return Image.merge("HSV", (hue.point(lambda value: (value + by) % 256), *others)).convert("RGB")

    grey = [image.convert("L").convert("RGB") for image in learn.images]
    images = [*learn.images, *grey, *map(turned, learn.images)]
    ids = [f"{style}{item_id}" for style in ("", "grey ", "turned ") for item_id in learn.item_ids]
    texts, groups = 3 * learn.texts, 3 * [f"{group}" for group in learn.relations.group_N]
    return Collection(ids, texts, Relations.build(ids, groups, texts, ids), images)


def recalls(encoder: Encoder, check: Collection) -> dict[str, float]:
    """Recalls on a validation split."""
    image_ND, text_TD = encoder.embed_images(check.images), encoder.embed_texts(check.relations.texts)
    metrics = evaluate(image_ND, text_TD, check.relations, EvaluationConfig(), {}).as_dict()
    named = {f"{short}@{k}": f"{name}@{k}" for short, name in ASKED.items() for k in (1, 5, 10)}
    return {short: metrics[name] for short, name in named.items() if name in metrics}


def main() -> None:
    """Prints a row for each shape, collection and budget."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", nargs="+", default=["tiny-64"], help="architectures: names or .json files")
    parser.add_argument("--collections", nargs="+", default=["grocery", "emoji"])
    parser.add_argument("--seconds", type=float, nargs="+", default=[120], help="CPU seconds of training")
    parser.add_argument("--steps", type=int, default=100, help="of towers that start in closed form")
    parser.add_argument("--styles", action="store_true", help="learn from pictures in three styles")
    parser.add_argument("--set", default="{}", help="other TrainingConfig fields, as JSON")
    options = parser.parse_args()
    time.perf_counter = time.process_time  # the clock of a training's minutes
    config = TrainingConfig(max_minutes=None, max_steps=options.steps, threads=1)
    config = TrainingConfig.model_validate(config.model_dump() | json.loads(options.set))
    titled = False
    for name in options.collections:
        for shape in options.shapes:
            with tempfile.TemporaryDirectory() as folder:
                for row in measure(shape, name, config, options, Path(folder)):
                    titles = ["shape", "data", *row, "load"]
                    values = [
                        f"{Path(shape).stem}{' in styles' if options.styles else ''} {options.set}",
                        name,
                        *(f"{value:.3f}" for value in row.values()),
                    ]
                    if not titled:
                        sys.stdout.write(f"| {' | '.join(titles)} |\n|{' --- |' * len(titles)}\n")
                        titled = True
                    sys.stdout.write(f"| {' | '.join([*values, f'{os.getloadavg()[0]:.1f}'])} |\n")
                    sys.stdout.flush()


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
