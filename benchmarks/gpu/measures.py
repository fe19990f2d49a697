"""What the parts share: sizes, the clock that a GPU needs, memory, and lines of JSON."""

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from pairloom.models.arrays import best_device
from pairloom.models.batches.feed import TrainingItems
from pairloom.models.batches.relations import Relations
from pairloom.models.geometry import Geometry
from pairloom.models.towers.config import ModelConfig
from pairloom.models.towers.creation import create
from pairloom.models.towers.dual_encoder import DualEncoder
from pairloom.models.training.config import TrainingConfig

Facts = dict[str, object]
WORDS = ("a", "red", "small", "old", "wooden", "painted", "photograph", "of", "the", "round", "blue", "house", "boat")


@dataclass(frozen=True)
class Sizes:
    """How much is measured."""

    architectures: tuple[str, ...]
    batches: tuple[int, ...]
    """Items of a training step, by architecture."""
    steps: int
    """Steps that are timed, after three that aren't."""
    large_batch: int
    micro_batch: int
    images: int
    """To embed."""
    vectors: int
    """To mine."""
    queries: int
    """Of these at once: between them the clock is looked at."""
    width: int
    compiles: bool
    """Whether the compiler, which takes most of a minute, is tried."""
    resumed_steps: int


SIZES = {
    "full": Sizes(("ViT-B-32", "ViT-B-16"), (1024, 512), 20, 32_768, 1024, 20_000, 1_000_000, 50_000, 512, True, 200),
    "tiny": Sizes(("tiny-32",), (16,), 2, 64, 16, 24, 2_000, 1_000, 32, False, 30),
}


@dataclass(frozen=True)
class Part:
    """One part at work: what it says, and how long it may go on."""

    name: str
    sizes: Sizes
    ends: float
    """By `time.monotonic`."""
    say: Callable[[str], None]

    def tell(self, what: str, **facts: object) -> None:
        """One line of JSON."""
        self.say(json.dumps({"part": self.name, "what": what, **facts}))

    def measure(self, what: str, make: Callable[[], Facts], **facts: object) -> None:
        """A line of `facts` and what `make` finds, of what went wrong with it, or of no time being left for it."""
        if time.monotonic() > self.ends:
            self.tell(what, skipped="no time left")
            return
        try:
            self.tell(what, **facts, **make())
        except Exception as error:  # one variant that is too large, say, says nothing of the next
            self.tell(what, **facts, error=f"{type(error).__name__}: {str(error)[:300]}")
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def seconds(work: Callable[[], object]) -> float:
    """Wall time of some work on the device, to its end."""
    synchronize()
    began = time.perf_counter()
    work()
    synchronize()
    return time.perf_counter() - began


def synchronize() -> None:
    """Until the device has done what it was given."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def peak_gib(work: Callable[[], object]) -> tuple[float, float | None]:
    """Seconds of some work, and the most device memory that it held beyond what was held before; None on a CPU."""
    if not torch.cuda.is_available():
        return seconds(work), None
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    spent = seconds(work)
    return spent, (torch.cuda.max_memory_allocated() - before) / 2**30


def made_up_texts(count: int) -> list[list[str]]:
    """One caption of eight to twenty words an item, each another one."""
    random = np.random.default_rng(0)
    return [[" ".join([*random.choice(WORDS, random.integers(7, 19)), str(row)])] for row in range(count)]


def encoder_of(architecture: str, texts: list[list[str]]) -> DualEncoder:
    """An untrained one on the device."""
    encoder = create(ModelConfig(architecture=architecture), [text for own in texts for text in own], seed=0)
    encoder.network.to(best_device())
    return encoder


def made_up_items(encoder: DualEncoder, texts: list[list[str]]) -> TrainingItems:
    """Noise as pictures, each with its text, related to nothing else."""
    geometry, count = Geometry.of(encoder.preprocess_cfg), len(texts)
    pixels = np.random.default_rng(0).integers(0, 256, (count, geometry.height, geometry.width, 3), np.uint8)
    ids = [str(row) for row in range(count)]
    return TrainingItems(tuple(ids), pixels, Relations.build(ids, [None] * count, texts, [None] * count))


def plain_training(steps: int, batch: int, **more: object) -> TrainingConfig:
    """So many steps of our loop and nothing that other loops don't do."""
    settings = {"max_minutes": None, "max_steps": steps, "batch_size": batch, "hard_fraction": 0, "augmentation": None}
    return TrainingConfig.model_validate({**settings, "checkpoint_seconds": 1e9, **more})


def folder_of(scratch: Path, name: str) -> Path:
    """A folder of its own."""
    folder = scratch / name
    folder.mkdir(parents=True)
    return folder
