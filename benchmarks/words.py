"""Word vectors as the start of a text tower: recall after equal steps, beside a random start, over several seeds.

    python -m benchmarks.words --steps 300 --seeds 0 1 2 --results words.jsonl

Emoji without skin tones, a name and its keywords as the texts of an item; trained on split `train`, asked on split
`val`. Both starts of a seed see the same batches. Prints a Markdown table of all results in the file.
"""

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.bundle import Collection, read_pictures, read_rows
from benchmarks.towers import recalls
from pairloom.models.batches.config import AugmentationConfig
from pairloom.models.batches.feed import TrainingItems
from pairloom.models.batches.pixels import open_pixels, write_pixels
from pairloom.models.batches.relations import Relations
from pairloom.models.encoder import Encoder
from pairloom.models.towers.config import ModelConfig, WordVectorsConfig
from pairloom.models.towers.creation import create
from pairloom.models.towers.word_start import start_from_words
from pairloom.models.towers.word_vectors import learn_words
from pairloom.models.training.config import TrainingConfig
from pairloom.models.training.trainer import Recipe, train

STILL = AugmentationConfig(shift=0.04, scale=0.08, rotation=3, colour=0.05)


def read_emoji(split: str) -> Collection:
    """Names and keywords as texts."""
    rows = [row for row in read_rows("emoji") if row["split"] == split]
    ids, texts = [row["image_id"] for row in rows], [row["texts"] + row["keywords"] for row in rows]
    relations = Relations.build(ids, [row["concept_id"] for row in rows], texts, [row["pixel_sha1"] for row in rows])
    return Collection(ids, texts, relations, read_pictures("emoji", rows))


def measure(shape: str, start: str, config: TrainingConfig, learn: Collection, check: Collection) -> dict[str, Any]:
    """Trains from one start; seconds and recalls."""
    encoder = create(ModelConfig(architecture=shape), [text for own in learn.texts for text in own], seed=config.seed)
    row: dict[str, Any] = {"shape": shape, "start": start, "seed": config.seed, "steps": config.max_steps}
    began = time.process_time()
    started = start_from_words(encoder, learn_words(learn.texts, WordVectorsConfig())) if start == "words" else 0
    row |= {"tokens started": started, "CPU s of words": time.process_time() - began}
    with tempfile.TemporaryDirectory() as folder:
        write_pixels(learn.images, len(learn.images), encoder.preprocess_cfg, Path(folder) / "pixels.npy")
        items = TrainingItems(tuple(learn.item_ids), open_pixels(Path(folder) / "pixels.npy"), learn.relations)
        began = time.process_time()
        result = train(encoder, items, Recipe(config), workdir=Path(folder))
    row |= {"CPU s": time.process_time() - began, "loss": result.loss}
    return row | recalls(Encoder(result.encoder), check)


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Mean and standard deviation over the seeds of each shape, start and number of steps."""
    keys = [key for key in rows[0] if key not in ("shape", "start", "seed", "steps", "load")]
    lines = [f"| shape | start | steps | seeds | {' | '.join(keys)} |", "| --- " * (len(keys) + 4) + "|"]
    for kind in sorted({(row["shape"], row["steps"], row["start"]) for row in rows}):
        own = [row for row in rows if (row["shape"], row["steps"], row["start"]) == kind]
        values = np.array([[row[key] for key in keys] for row in own])
        cells = [f"{mean:.4g} ± {deviation:.2g}" for mean, deviation in zip(values.mean(0), values.std(0), strict=True)]
        lines.append(f"| {kind[0]} | {kind[2]} | {kind[1]} | {len(own)} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measures what the file lacks, then prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", nargs="+", default=["tiny-32"])
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--results", type=Path, required=True, help="rows are added to this file")
    options = parser.parse_args()
    lines = options.results.read_text().splitlines() if options.results.exists() else []
    rows = [json.loads(line) for line in lines]
    learn, check = read_emoji("train"), read_emoji("val")
    for seed in options.seeds:
        for shape in options.shapes:
            for start in ("random", "words"):
                config = TrainingConfig(
                    max_minutes=None,
                    max_steps=options.steps,
                    batch_size=options.batch_size,
                    threads=1,
                    augmentation=STILL,
                    seed=seed,
                )
                wanted = (shape, start, seed, options.steps)
                if wanted not in [tuple(row[key] for key in ("shape", "start", "seed", "steps")) for row in rows]:
                    rows.append(measure(shape, start, config, learn, check) | {"load": os.getloadavg()[0]})
                    with options.results.open("a") as file:
                        file.write(json.dumps(rows[-1]) + "\n")
    sys.stdout.write(table(rows))


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
