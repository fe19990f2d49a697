"""Exported towers beside torch's: seconds to export, to load, for one query and for many, and memory.

`python -m benchmarks.exported [--architectures tiny-64 ViT-B-32] [--rounds N]` makes each model once, with weights
drawn at random and the texts and photographs of the grocery bundle, and exports it. Embeddings of both sides are
compared, and both asked in turn, round by round, with as many threads; a time is the median. Memory is the peak of a
process that loads one side and embeds one text and one image.
"""

import argparse
import logging
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np

from benchmarks.bundle import read_collection
from pairloom.models.exported import ExportedEncoder, threads

PEAK = """
import sys
from pathlib import Path
from PIL import Image
from pairloom.models.{module} import {name}
encoder = {name}.load(Path(sys.argv[1]))
encoder.embed_texts(["an apple"])
encoder.embed_images([Image.new("RGB", (96, 96))])
lines = dict(line.split(":", 1) for line in open("/proc/self/status"))
print(int(lines["VmHWM"].split()[0]) // 1024)
"""
SIDES = (("encoder", "Encoder"), ("exported", "ExportedEncoder"))


def seconds(ask: Callable[[], object]) -> float:
    """Wall seconds of one call."""
    started = time.perf_counter()
    ask()
    return time.perf_counter() - started


def peak(module: str, name: str, directory: Path) -> int:
    """Peak memory in MiB of a process that embeds a text and an image by one side."""
    program = PEAK.format(module=module, name=name)
    return int(subprocess.check_output([sys.executable, "-c", program, str(directory)]))


def main() -> None:
    """Print a row an architecture and measure: torch's, the exported towers', and the quotient."""
    logging.disable(logging.WARNING)
    parser = argparse.ArgumentParser()
    parser.add_argument("--architectures", nargs="+", default=["tiny-32", "tiny-64", "tiny-32-lstm", "ViT-B-32"])
    parser.add_argument("--rounds", type=int, default=30)
    arguments = parser.parse_args()

    import torch

    from pairloom.models.encoder import Encoder
    from pairloom.models.export import Compared, export
    from pairloom.models.towers.config import ModelConfig
    from pairloom.models.towers.creation import create

    torch.set_num_threads(threads())
    items = read_collection("grocery", "val")
    texts, images = [text for texts in items.texts for text in texts], items.images
    sys.stdout.write("| architecture | measure | torch | exported | quotient |\n| --- | --- | ---: | ---: | ---: |\n")
    for architecture in arguments.architectures:
        with tempfile.TemporaryDirectory() as folder:
            directory = Path(folder)
            create(ModelConfig(architecture=architecture), texts, seed=0).save(directory)
            pixels = np.stack([np.asarray(image.resize((64, 64))) for image in images[:8]])
            spent = -time.process_time()
            exporting = seconds(partial(export, directory, Compared(texts, pixels)))
            spent += time.process_time()
            encoders = Encoder.load(directory), ExportedEncoder.load(directory)
            asked: dict[str, Callable[[Encoder | ExportedEncoder], object]] = {
                "one text, ms": lambda encoder: encoder.embed_texts(texts[:1]),
                "one image, ms": lambda encoder: encoder.embed_images(images[:1]),
                "32 texts, ms": lambda encoder: encoder.embed_texts(texts[:32]),
                "32 images, ms": lambda encoder: encoder.embed_images(images[:32]),
            }
            both = ([each.embed_texts(texts[:32]), each.embed_images(images[:32])] for each in encoders)
            apart = max(float(np.abs(one - other).max()) for one, other in zip(*both, strict=True))
            for name, ask in asked.items():
                rounds = max(3, arguments.rounds // (10 if name.startswith("32") else 1))
                times: list[tuple[float, float]] = []
                for number in range(-1, rounds):
                    own = [seconds(partial(ask, each)) * 1000 for each in encoders]
                    if number >= 0:
                        times.append((own[0], own[1]))
                one, other = (statistics.median(each) for each in zip(*times, strict=True))
                sys.stdout.write(f"| {architecture} | {name} | {one:.2f} | {other:.2f} | {other / one:.2f} |\n")
            memory = [peak(module, name, directory) for module, name in SIDES]
            sys.stdout.write(
                f"| {architecture} | peak memory, MiB | {memory[0]} | {memory[1]} | {memory[1] / memory[0]:.2f} |\n"
                f"| {architecture} | to export, s | – | {exporting:.1f} | – |\n"
                f"| {architecture} | to export, CPU s | – | {spent:.1f} | – |\n"
                f"| {architecture} | largest difference | – | {apart:.1e} | – |\n"
            )
    sys.stdout.write(f"\n{threads()} threads, load {os.getloadavg()[0]:.1f}\n")


if __name__ == "__main__":
    main()
