"""Seconds a training step: our loop beside open_clip's own, alternating in one run; and that both compute the same.

    python -m benchmarks.train --architecture tiny-32 --batch 256 --steps 40 --rounds 3
    python -m benchmarks.train --architecture tiny-32 --check-loss

Both train the same architecture from the same weights with the same batch size on the emoji of the training split
(3,352 pictures of two artists), in float32. The peer is `open_clip_train.train.train_one_epoch` with `ClipLoss` and the
AdamW of `open_clip_train.main`; it pads texts to the architecture's context length (24 tokens for ours, 77 for
open_clip's). It comes in two forms:

- *its data loader*: a stored JPEG is decoded, cropped by its training transform and tokenised for every sample, in a
  `DataLoader` with 0 or 1 worker processes. Compare with *ours*, which augments (`training.augmentation`), too.
- *cached pixels*: it is handed our cached pixels, normalised, and ready tokens. Compare with *ours, still*: no
  augmentation on either side, so the whole of a step is towers, loss and optimizer.

*Ours, still, bfloat16* is for the choice of `training.precision` on a CPU, and no contestant: they are in float32.

Our loop draws one text an item, masks known positives and mines nothing. `--captions` says what the texts are: the
first name, the first name followed by the keywords, or all names and keywords as separate texts (the peer, whose data
has one caption a row, then gets a random one of them a step). The time is that between two steps in mid-run: neither
start-up nor checkpoints count. It is taken as wall time with two threads and as CPU time with one; the latter without
worker processes, whose time would be missing.

`--check-loss` runs both loops for 50 steps over the same batches with the same learning rates, no augmentation and no
known positives but an item's own text, and prints the largest difference of their losses.
"""

# B = batch

import argparse
import copy
import gc
import itertools
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal
from unittest import mock

import numpy as np
import torch
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from benchmarks.bundle import read_pictures, read_rows, unrelated
from benchmarks.peer import Batch, train_open_clip
from pairloom.models.batches.config import AugmentationConfig
from pairloom.models.batches.feed import TrainingItems
from pairloom.models.batches.pixels import normalize_pixels, open_pixels, write_pixels
from pairloom.models.batches.plan import BatchPlan
from pairloom.models.batches.relations import Relations
from pairloom.models.towers.config import ModelConfig
from pairloom.models.towers.creation import create
from pairloom.models.towers.dual_encoder import DualEncoder
from pairloom.models.training.config import TrainingConfig
from pairloom.models.training.log import TrainingProgress
from pairloom.models.training.trainer import Recipe, train

CAPTIONS = ("names", "joined", "separate")
Clock = Callable[[], float]


@dataclass(frozen=True)
class Work:
    """What both loops start from."""

    start: DualEncoder
    items: TrainingItems
    captions: list[list[str]]
    files: list[Path]
    """The pictures as ingest stores them."""
    batch: int
    steps: int


class Stored(Dataset[Batch]):
    """A picture file and a caption an item, as the peer's `CsvDataset` reads them."""

    def __init__(self, work: Work) -> None:
        self._work = work
        self._transform = image_transform_v2(PreprocessCfg(**work.start.preprocess_cfg), is_train=True)

    def __len__(self) -> int:
        return len(self._work.files)

    def __getitem__(self, row: int) -> Batch:
        own = self._work.captions[row]
        text = own[int(torch.randint(len(own), ()))]
        return self._transform(Image.open(self._work.files[row])), self._work.start.tokenizer([text])[0]


def peer_seconds(work: Work, batches: Iterable[Batch], clock: Clock) -> float:
    """Of a step, on average, the fetching of its batch included."""
    arrived = []

    def timed() -> Iterator[Batch]:
        for batch in itertools.islice(batches, work.steps):
            arrived.append(clock())
            yield batch

    train_open_clip(copy.deepcopy(work.start.network), timed(), lambda _step: 1e-3)
    return (arrived[-1] - arrived[0]) / (len(arrived) - 1)


def loaded_batches(work: Work, workers: int) -> Iterator[Batch]:
    """Batches as the peer's own training loads them, epoch after epoch."""
    loader = DataLoader(Stored(work), work.batch, shuffle=True, num_workers=workers, drop_last=True)
    return itertools.chain.from_iterable(itertools.repeat(loader))


def cached_batches(work: Work) -> Iterator[Batch]:
    """Batches from our cached pixels and ready tokens."""
    items = work.items
    plan = BatchPlan(items.relations.item_texts, None, work.batch, 0, seed=1)
    token_TL = work.start.tokenize(items.relations.texts)
    for step in itertools.count():
        batch = plan.batch(step)
        yield (
            normalize_pixels(np.asarray(items.pixels[batch.items_B], np.uint8), work.start.preprocess_cfg),
            token_TL[batch.texts_B],
        )


def our_seconds(
    work: Work, augmentation: AugmentationConfig | None, clock: Clock, precision: Literal["fp32", "bf16"] = "fp32"
) -> float:
    """Of a step, on average, from the end of the first to that of the last that was reported."""
    seen: list[tuple[float, int]] = []

    def report(progress: TrainingProgress) -> None:
        seen.append((clock(), progress.step))

    config = plain_config(work).model_copy(update={"augmentation": augmentation, "precision": precision})
    _train(work, config, report)
    (began, first), (ended, last) = seen[0], seen[-1]
    if last == first:
        raise ValueError(f"{work.steps} steps take less than a second: give --steps more of them")
    return (ended - began) / (last - first)


def plain_config(work: Work) -> TrainingConfig:
    """Our loop without all that the peer's doesn't do, and without checkpoints in mid-run."""
    return TrainingConfig(
        max_minutes=None,
        max_steps=work.steps,
        batch_size=work.batch,
        hard_fraction=0,
        augmentation=None,
        checkpoint_seconds=1e12,
    )


def largest_difference(work: Work) -> tuple[float, float]:
    """Of the losses of both loops over the same steps; and the peer's last loss."""
    # The trainer logs a step a second: under this clock a second passes whenever it looks.
    with mock.patch.object(time, "perf_counter", itertools.count(0.0, 10.0).__next__):
        lines = _train(work, plain_config(work), None)
    ours, rates = [line["loss"] for line in lines], [line["lr"] for line in lines]
    assert len(ours) == work.steps, f"{len(ours)} of {work.steps} steps are in the log"
    plan = BatchPlan(work.items.relations.item_texts, None, work.batch, 0, plain_config(work).seed)
    token_TL = work.start.tokenize(work.items.relations.texts)
    batches = (plan.batch(step) for step in range(work.steps))
    same = (
        (
            normalize_pixels(np.asarray(work.items.pixels[own.items_B], np.uint8), work.start.preprocess_cfg),
            token_TL[own.texts_B],
        )
        for own in batches
    )
    theirs = train_open_clip(copy.deepcopy(work.start.network), same, lambda step: rates[step])
    return float(np.abs(np.array(ours) - np.array(theirs)).max()), theirs[-1]


def _train(
    work: Work, config: TrainingConfig, progress: Callable[[TrainingProgress], None] | None
) -> list[dict[str, float]]:
    """Trains a copy with our loop; the lines of its log."""
    with tempfile.TemporaryDirectory() as folder:
        encoder = copy.deepcopy(work.start)
        train(encoder, work.items, Recipe(config), workdir=Path(folder), progress=progress)
        return [json.loads(line) for line in (Path(folder) / "log.jsonl").read_text(encoding="utf-8").splitlines()]


def prepare(options: argparse.Namespace, folder: Path) -> Work:
    """Reads the emoji, writes pictures and pixels to `folder`, makes the towers."""
    rows = [row for row in read_rows("emoji") if row["split"] == "train"]
    texts = [_captions(row["texts"], row["keywords"], options.captions) for row in rows]
    images = read_pictures("emoji", rows)
    files = [folder / f"{number}.jpg" for number in range(len(rows))]
    for image, file in zip(images, files, strict=True):
        image.save(file, "JPEG", quality=90)
    start = create(ModelConfig(architecture=options.architecture), [text for own in texts for text in own], seed=0)
    write_pixels(images, len(images), start.preprocess_cfg, folder / "pixels.npy")
    ids = [row["image_id"] for row in rows]
    if options.check_loss:
        relations = unrelated(ids, texts)
    else:
        relations = Relations.build(ids, [row["concept_id"] for row in rows], texts, [r["pixel_sha1"] for r in rows])
    items = TrainingItems(tuple(ids), open_pixels(folder / "pixels.npy"), relations)
    return Work(start, items, texts, files, options.batch, options.steps)


def _captions(names: list[str], keywords: list[str], kind: str) -> list[str]:
    if kind == "joined":
        return [", ".join([names[0], *keywords])]
    return names[:1] if kind == "names" else [*names, *keywords]


def compare(work: Work, rounds: int, clock: Clock, workers: list[int]) -> str:
    """A Markdown table of milliseconds a step by loop, medians and ratios; the loops alternate."""
    loops: dict[str, Callable[[], float]] = {
        "ours": partial(our_seconds, work, AugmentationConfig(), clock),
        "ours, still": partial(our_seconds, work, None, clock),
        "ours, still, bfloat16": partial(our_seconds, work, None, clock, "bf16"),
    }
    for count in workers:
        name = f"open_clip, its data loader, {count} workers"
        loops[name] = lambda count=count: peer_seconds(work, loaded_batches(work, count), clock)  # type: ignore[misc]
    loops["open_clip, cached pixels"] = lambda: peer_seconds(work, cached_batches(work), clock)
    taken: dict[str, list[float]] = {name: [] for name in loops}
    for number, name in itertools.product(range(rounds), loops):
        gc.collect()  # ends the last loop's worker processes
        taken[name].append(1e3 * loops[name]())
        sys.stderr.write(f"round {number + 1}: {name}: {taken[name][-1]:.1f} ms\n")
    median = {name: float(np.median(own)) for name, own in taken.items()}
    lines = ["| loop | ms/step (median) | rounds | ÷ ours | ÷ ours, still |", "| --- | --- | --- | --- | --- |"]
    for name, own in taken.items():
        ratios = f"{median[name] / median['ours']:.2f} | {median[name] / median['ours, still']:.2f}"
        lines.append(f"| {name} | {median[name]:.1f} | {', '.join(f'{one:.1f}' for one in own)} | {ratios} |")
    return "\n".join(lines)


def main() -> None:
    """Prints the tables, or the difference of the losses."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--architecture", default="tiny-32", help="ours, or any of open_clip's: ViT-B-32")
    parser.add_argument("--captions", choices=CAPTIONS, default="names")
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--clocks", nargs="+", choices=("wall", "cpu"), default=["wall", "cpu"])
    parser.add_argument("--check-loss", action="store_true")
    options = parser.parse_args()
    torch.set_flush_denormal(True)  # for the peer, too
    what = f"{options.architecture}, batch {options.batch}, captions: {options.captions}"
    with tempfile.TemporaryDirectory() as folder:
        work = prepare(options, Path(folder))
        if options.check_loss:
            torch.set_num_threads(1)
            difference, last = largest_difference(work)
            found = f"largest difference of the losses {difference:.2g}, last loss {last:.3f}"
            sys.stdout.write(f"{what}, {work.steps} steps: {found}\n")
            return
        if "wall" in options.clocks:
            torch.set_num_threads(2)
            title = f"{what}; wall time, 2 threads, load {os.getloadavg()[0]:.1f}"
            sys.stdout.write(f"{title}\n\n{compare(work, options.rounds, time.perf_counter, [0, 1])}\n\n")
        if "cpu" in options.clocks:
            torch.set_num_threads(1)
            title = f"{what}; CPU time, 1 thread, load {os.getloadavg()[0]:.1f}"
            sys.stdout.write(f"{title}\n\n{compare(work, options.rounds, time.process_time, [0])}\n")


if __name__ == "__main__":
    main()
