"""Forward and backward of the contrastive loss beside open_clip's, in time and peak memory, as Markdown tables.

    python -m benchmarks.loss --rounds 3
    python -m benchmarks.loss --siglip --rounds 3

Every figure of the large batch comes from a fresh process, the contestants taking turns; a small call (256 pairs) first
loads what a first call loads. The small batch takes turns inside one process.
"""

import argparse
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

import open_clip
import torch
import torch.nn.functional as F
from open_clip.loss import SigLipLoss
from scipy import sparse  # type: ignore[import-untyped]  # scipy has no types

from pairloom.models.batches.targets import Targets
from pairloom.models.objectives.clip import clip_loss
from pairloom.models.objectives.siglip import siglip_loss


def prepare(name: str, batch: int, width: int) -> Callable[[], None]:
    """One forward and backward of a contestant on seeded embeddings with the diagonal as positives."""
    random = torch.Generator().manual_seed(0)
    image_BD, text_BD = (F.normalize(torch.randn(batch, width, generator=random)).requires_grad_() for _ in range(2))
    scale, bias = torch.tensor(1 / 0.07, requires_grad=True), torch.tensor(-10.0, requires_grad=True)
    targets = Targets.from_sparse(sparse.eye(batch, format="csr"))
    labels_B, theirs, their_siglip = torch.arange(batch), open_clip.ClipLoss(), SigLipLoss()

    def loss() -> torch.Tensor:
        if name == "ours":
            return clip_loss(image_BD, text_BD, targets, scale)
        if name == "our_siglip":
            return siglip_loss(image_BD, text_BD, targets, (scale, bias))
        found: torch.Tensor
        if name == "open_clip_siglip":
            found = their_siglip(image_BD, text_BD, scale, bias)
            return found
        if name == "open_clip":
            found = theirs(image_BD, text_BD, scale)
            return found
        logits_BB = scale * image_BD @ text_BD.T
        return (F.cross_entropy(logits_BB, labels_B) + F.cross_entropy(logits_BB.T, labels_B)) / 2

    def call() -> None:
        image_BD.grad = text_BD.grad = scale.grad = bias.grad = None
        loss().backward()  # type: ignore[no-untyped-call]

    return call


def measure(name: str, batch: int, width: int) -> tuple[float, float]:
    """Seconds, and MiB of peak memory beyond what stood before the call."""
    prepare(name, 256, width)()
    call = prepare(name, batch, width)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    began = time.perf_counter()
    call()
    seconds = time.perf_counter() - began
    return seconds, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024


def large(batch: int, width: int, names: list[str], rounds: int) -> None:
    """A row a contestant, medians over the rounds."""
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in names}
    for _ in range(rounds):
        for name in names:
            command = [sys.executable, "-m", "benchmarks.loss", "--child", name, str(batch), str(width)]
            seconds, mebibytes = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
            found[name].append((float(seconds), float(mebibytes)))
    for name, figures in found.items():
        seconds, mebibytes = (statistics.median(column) for column in zip(*figures, strict=True))
        each = ", ".join(f"{own:.2f}" for own, _ in figures)
        sys.stdout.write(f"| {batch} × {width} | {name} | {seconds:.2f} | {each} | {mebibytes:.0f} |\n")
        sys.stdout.flush()


def small(batch: int, width: int, rounds: int) -> None:
    """A row a contestant, median milliseconds over the rounds."""
    calls = {name: prepare(name, batch, width) for name in ("ours", "dense", "open_clip")}
    found: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            began = time.perf_counter()
            call()
            found[name].append(1e3 * (time.perf_counter() - began))
    for name, times in found.items():
        sys.stdout.write(f"| {batch} × {width} | {name} | {statistics.median(times):.2f} |\n")


def main() -> None:
    """Prints both tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--siglip", action="store_true", help="SigLIP's loss alone, at 8,192 pairs")
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        name, batch, width = options.child
        sys.stdout.write("{} {}\n".format(*measure(name, int(batch), int(width))))
        return
    sys.stdout.write(f"{torch.get_num_threads()} threads, load {os.getloadavg()[0]:.1f}\n\n")
    if options.siglip:
        sys.stdout.write(f"| B × D | loss | s (median) | rounds | peak MiB |\n|{' --- |' * 5}\n")
        large(8_192, 512, ["our_siglip", "open_clip_siglip"], options.rounds)
        return
    sys.stdout.write(f"| B × D | loss | ms (median) |\n|{' --- |' * 3}\n")
    for width in (128, 256, 512):
        small(256, width, 100 * options.rounds)
    sys.stdout.write(f"\n| B × D | loss | s (median) | rounds | peak MiB |\n|{' --- |' * 5}\n")
    large(16_384, 512, ["ours", "open_clip"], options.rounds)
    large(32_768, 512, ["ours"], 1)


if __name__ == "__main__":
    main()
