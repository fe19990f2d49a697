"""A training killed a hundred times ends with the weights of one that ran undisturbed.

    python -m benchmarks.kills --kills 100 --steps 700

A small real training (`tiny-32`, 640 emoji, batch 32, mined batches, augmentation, one thread, a checkpoint about every
0.1 s) runs in a child process that gets SIGKILL at seeded random moments and is started again until it has ended. The
moments are of three kinds:

- *start*: within 0.5 s of the start: before or while a checkpoint is loaded, or a few steps later (one in five);
- *anywhere*: up to 0.3 s after the first new checkpoint (two in five);
- *writing*: within 30 ms after a new checkpoint's `.partial` folder has appeared (two in five).

The last two wait for a new checkpoint first, so the training gets on. A kill counts as one during writing where it
leaves a new `.partial` folder behind. Children are forked from a process that has everything loaded, so that a start
costs little; the undisturbed run is such a child, too. The steps lost are those taken, counted in shared memory, less
those of the run.
"""

import argparse
import hashlib
import multiprocessing
import os
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from multiprocessing.sharedctypes import RawValue
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.optim.optimizer import register_optimizer_step_post_hook

from benchmarks.bundle import read_pictures, read_rows
from pairloom.models.batches.feed import TrainingItems
from pairloom.models.batches.pixels import open_pixels, write_pixels
from pairloom.models.batches.relations import Relations
from pairloom.models.mining.config import MiningConfig
from pairloom.models.mining.lexical import mine_lexical_negatives
from pairloom.models.mining.negatives import batch_negatives
from pairloom.models.towers.config import ModelConfig
from pairloom.models.towers.creation import create
from pairloom.models.towers.dual_encoder import DualEncoder
from pairloom.models.training.config import TrainingConfig
from pairloom.models.training.trainer import Recipe, train

ITEMS, BATCH = 640, 32
FORK = multiprocessing.get_context("fork")


@dataclass(frozen=True)
class Training:
    """What every child trains from; a fork shares it."""

    start: DualEncoder
    items: TrainingItems
    config: TrainingConfig

    def run(self, workdir: Path, taken: Any) -> None:
        """To the end, or from the newest checkpoint to it; then writes the digest of the weights."""

        def count(*_: object) -> None:
            taken.value += 1

        register_optimizer_step_post_hook(count)
        result = train(self.start, self.items, Recipe(self.config), workdir=workdir)
        digest = hashlib.sha256()
        for name, tensor in result.encoder.network.state_dict().items():
            digest.update(name.encode() + tensor.contiguous().numpy().tobytes())
        (workdir / "digest").write_text(digest.hexdigest())

    def child(self, workdir: Path, taken: Any) -> BaseProcess:
        """A started process that runs it."""
        process = FORK.Process(target=self.run, args=(workdir, taken), daemon=True)
        process.start()
        return process


def prepare(steps: int, folder: Path) -> Training:
    """Reads emoji and makes the towers."""
    rows = [row for row in read_rows("emoji") if row["split"] == "train"][:ITEMS]
    ids, texts = [row["image_id"] for row in rows], [[*row["texts"], *row["keywords"]] for row in rows]
    relations = Relations.build(ids, [row["concept_id"] for row in rows], texts, [row["pixel_sha1"] for row in rows])
    start = create(ModelConfig(architecture="tiny-32"), [text for own in texts for text in own], seed=0)
    write_pixels(read_pictures("emoji", rows), len(rows), start.preprocess_cfg, folder / "pixels.npy")
    negatives_NK = batch_negatives(mine_lexical_negatives(relations, MiningConfig(), seed=0))
    items = TrainingItems(tuple(ids), open_pixels(folder / "pixels.npy"), relations, negatives_NK)
    config = TrainingConfig(
        max_minutes=None, max_steps=steps, batch_size=BATCH, threads=1, checkpoint_seconds=0.1, ema_decay=0.99
    )
    return Training(start, items, config)


def half_written(checkpoints: Path) -> set[tuple[str, int]]:
    """The `.partial` folders, each with when it was last written to."""
    return {(folder.name, folder.stat().st_mtime_ns) for folder in checkpoints.glob("*.partial")}


def wait_for(runs: Callable[[], bool], checkpoints: Path, seen: set[str], pattern: str) -> bool:
    """Until a folder that isn't among `seen` fits the pattern; false where the child no longer `runs` before."""
    while runs():
        if {folder.name for folder in checkpoints.glob(pattern)} - seen:
            return True
        time.sleep(0.0005)
    return False


def kill_once(process: BaseProcess, checkpoints: Path, random: np.random.Generator) -> str | None:
    """Kills the child at a random moment; the moment's kind, or none where the training ended before it."""
    kind = str(random.choice(["start", "anywhere", "writing"], p=[0.2, 0.4, 0.4]))
    seen = {folder.name for folder in checkpoints.glob("step-*")}
    if kind != "start" and not wait_for(process.is_alive, checkpoints, seen, "step-*[0-9]"):
        return None
    if kind == "writing":
        seen = {folder.name for folder in checkpoints.glob("step-*")}
        if not wait_for(process.is_alive, checkpoints, seen, "*.partial"):
            return None
    time.sleep(random.uniform(0, {"start": 0.5, "anywhere": 0.3, "writing": 0.03}[kind]))
    process.kill()
    process.join()
    return kind if process.exitcode else None


def main() -> None:
    """Prints what was killed and whether the weights are equal; exits with 1 where they aren't."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--steps", type=int, default=700)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # its threads don't survive a fork
    torch.set_num_threads(1)
    random, load, began = np.random.default_rng(options.seed), os.getloadavg()[0], time.perf_counter()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        training = prepare(options.steps, folder)
        training.child(folder / "whole", RawValue("q")).join()
        whole = time.perf_counter() - began
        checkpoints, taken = folder / "cut" / "checkpoints", RawValue("q")
        kinds: list[str] = []
        writing = 0
        while len(kinds) < options.kills:
            before = half_written(checkpoints)
            process = training.child(folder / "cut", taken)
            kind = kill_once(process, checkpoints, random)
            if kind is None:
                raise RuntimeError(f"the training ended after {len(kinds)} kills: give --steps more of them")
            kinds.append(kind)
            torn = len(half_written(checkpoints) - before)
            writing += torn
            newest = max((own.name for own in checkpoints.glob("step-*[0-9]")), default="none")
            sys.stderr.write(f"kill {len(kinds)}: {kind}, newest checkpoint {newest}, {torn} half written\n")
        training.child(folder / "cut", taken).join()
        equal = (folder / "whole" / "digest").read_text() == (folder / "cut" / "digest").read_text()
    counts = ", ".join(f"{kinds.count(kind)} {kind}" for kind in ("start", "anywhere", "writing"))
    sys.stdout.write(
        f"{len(kinds)} kills ({counts}), {writing} left a half-written checkpoint; {options.steps} steps, "
        f"{taken.value - options.steps} more were taken and lost; undisturbed {whole:.0f} s with start-up, all "
        f"{time.perf_counter() - began:.0f} s; load at the start {load:.1f}\n"
        f"final weights {'bit-identical' if equal else 'DIFFER'}\n"
    )
    sys.exit(not equal)


if __name__ == "__main__":
    main()
