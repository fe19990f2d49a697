"""Training samples a CPU second: our loop beside a plain open_clip loop, alternating in one run.

    python -m benchmarks.train --collection grocery --steps 8 --rounds 3

Both train the same architecture from the same weights, batch 256, on the same items, with AdamW and one thread.
The peer is what one writes from open_clip's README: shuffled batches, `preprocess` of each picture,
`model(image, text)` at full context length, `ClipLoss`, `AdamW`. It comes in two forms: decoding the stored picture at
each step, and with our cached pixels, so that the gain of the cache is told apart from the rest. Neither peer
augments or masks known positives; our loop does both, mines nothing, and is timed with and without augmentation.
CPU seconds of one thread, so that other work on the machine weighs less; ours include tokenising all texts and writing
a checkpoint.
"""

import argparse
import copy
import io
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import open_clip
import torch
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image

from benchmarks.bundle import read_collection
from models.objectives import ObjectiveConfig
from models.pixels import AugmentationConfig, normalize_pixels, open_pixels, write_pixels
from models.towers import DualEncoder, ModelConfig, create
from models.trainer import TrainingConfig, TrainingItems, train

BATCH = 256
STILL = AugmentationConfig(shift=0, scale=0, rotation=0, colour=0)


def plain_loop(
    encoder: DualEncoder, texts: list[list[str]], batch_of_images: Callable[[np.ndarray], torch.Tensor], steps: int
) -> float:
    """The peer's CPU seconds for `steps` steps."""
    network, loss_of = encoder.network.train(), open_clip.ClipLoss()
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3, betas=(0.9, 0.98), eps=1e-6, weight_decay=0.2)
    order = np.random.default_rng(0).permutation(len(texts))
    began = time.process_time()
    for step in range(steps):
        rows = np.take(order, np.arange(step * BATCH, (step + 1) * BATCH), mode="wrap")
        image, text, scale = network(batch_of_images(rows), encoder.tokenizer([texts[row][0] for row in rows]))
        loss = loss_of(image, text, scale)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return time.process_time() - began


def main() -> None:
    """Prints each contestant's samples a CPU second by round, and the ratios of the medians."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--architecture", default="tiny-64")
    parser.add_argument("--collection", default="grocery")
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)  # for the peers, too
    learn = read_collection(options.collection, "train")
    start = create(
        ModelConfig(architecture=options.architecture), [text for own in learn.texts for text in own], seed=0
    )
    stored = [_jpeg(image) for image in learn.images]
    transform = image_transform_v2(PreprocessCfg(**start.preprocess_cfg), is_train=False)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "pixels.npy"
        write_pixels(learn.images, len(learn.images), start.preprocess_cfg, path)
        pixels = open_pixels(path)
        items = TrainingItems(learn.item_ids, learn.texts, pixels, learn.relations)

        def decoded(rows: np.ndarray) -> torch.Tensor:
            return torch.stack([transform(Image.open(io.BytesIO(stored[row]))) for row in rows])

        def cached(rows: np.ndarray) -> torch.Tensor:
            return normalize_pixels(pixels[rows], start.preprocess_cfg)

        def ours(augmentation: AugmentationConfig) -> float:
            config = TrainingConfig(
                max_minutes=None, max_steps=options.steps, batch_size=BATCH, augmentation=augmentation
            )
            with tempfile.TemporaryDirectory() as workdir:
                encoder = copy.deepcopy(start)
                began = time.process_time()
                train(encoder, items, None, config, [ObjectiveConfig()], workdir=Path(workdir))
            return time.process_time() - began

        contestants: dict[str, Callable[[], float]] = {
            "ours": lambda: ours(AugmentationConfig()),
            "ours without augmentation": lambda: ours(STILL),
            "open_clip, decoding": lambda: plain_loop(copy.deepcopy(start), learn.texts, decoded, options.steps),
            "open_clip, cached pixels": lambda: plain_loop(copy.deepcopy(start), learn.texts, cached, options.steps),
        }
        rates: dict[str, list[float]] = {name: [] for name in contestants}
        for _ in range(options.rounds):
            for name, contestant in contestants.items():
                rates[name].append(BATCH * options.steps / contestant())
    median = {name: float(np.median(own)) for name, own in rates.items()}
    sys.stdout.write(f"{options.architecture}, {options.collection}, load {os.getloadavg()[0]:.1f}\n\n")
    sys.stdout.write("| loop | samples/CPU s (median) | rounds | ours ÷ this |\n| --- | --- | --- | --- |\n")
    for name, own in rates.items():
        rounds = ", ".join(f"{rate:.0f}" for rate in own)
        sys.stdout.write(f"| {name} | {median[name]:.0f} | {rounds} | {median['ours'] / median[name]:.2f} |\n")


def _jpeg(image: Image.Image) -> bytes:
    """The picture as ingest stores it."""
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=90)
    return stream.getvalue()


if __name__ == "__main__":
    main()
