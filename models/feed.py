"""Batches made ready aside, while the step before them is computed: pixels, augmentation, tokens, targets."""

# N = items, T = unique texts, K = hard negatives an anchor, B = global batch, b = this rank's share of it,
# U = its unique texts, L = tokens

import queue
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt
import torch

from models.batches import BatchPlan, Indices
from models.contrastive import Targets
from models.distributed import ALONE, Ranks
from models.pixels import AugmentationConfig, Pixels, augment, draw_changes, normalize_pixels
from models.relations import Relations
from models.towers import DualEncoder

AHEAD = 1
"""Batches kept ready, beside the one in the making."""


@dataclass(frozen=True)
class TrainingItems:
    """What is trained on: N items in one order."""

    item_ids: tuple[str, ...]
    pixels: Pixels
    """Uint8 (N, H, W, 3), of the size that the model takes."""
    relations: Relations
    """With the items' texts."""
    negatives_NK: npt.NDArray[np.int32] | None = None
    """Mined hard negatives of each item, hardest first, -1 for none."""


@dataclass(frozen=True)
class ReadyBatch:
    """One rank's share of a step's batch."""

    step: int
    count: int
    """B, over all ranks."""
    image_bCHW: torch.Tensor
    """Normalised and augmented."""
    token_UL: torch.Tensor
    """Each text once, cut to the longest."""
    text_b: torch.Tensor
    """Which of the U texts belongs to each item; int64."""
    targets: Targets
    """Positives among all B items and texts."""


@dataclass(frozen=True)
class BatchSource:
    """Makes the batch of any step, the same for any number of ranks."""

    items: TrainingItems
    plan: BatchPlan
    encoder: DualEncoder
    token_TL: torch.Tensor
    augmentation: AugmentationConfig | None
    ranks: Ranks = ALONE

    def batch(self, step: int) -> ReadyBatch:
        """A pure function of the plan's seed and the step."""
        batch = self.plan.batch(step)
        count, device = len(batch.items_B), self.encoder.device
        own = self.ranks.own(count)
        image_bCHW = normalize_pixels(self.items.pixels[batch.items_B[own]], self.encoder.preprocess_cfg, device)
        if self.augmentation:
            generator = torch.Generator().manual_seed(self.plan.seed * 1_000_003 + step)
            changes = draw_changes(count, self.augmentation, generator)
            image_bCHW = augment(image_bCHW, changes.of(own))
        texts_U, text_b = np.unique(batch.texts_B[own], return_inverse=True)
        return ReadyBatch(
            step,
            count,
            image_bCHW,
            self.encoder.trim(self.token_TL[texts_U]).to(device),
            torch.from_numpy(text_b).to(device),
            self._targets(batch.items_B, batch.texts_B, device),
        )

    def _targets(self, items_B: Indices, texts_B: Indices, device: torch.device) -> Targets:
        return Targets.from_sparse(self.items.relations.text_targets(items_B, texts_B), device)


class Feed:
    """Batches in order, made by a thread of their own, and how long they were waited for."""

    def __init__(self, make: Callable[[int], ReadyBatch], first_step: int) -> None:
        self.waited = 0.0
        """Seconds, since the beginning."""
        self._start(make, first_step)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self._end()

    def restart(self, make: Callable[[int], ReadyBatch], step: int) -> None:
        """Go on from `step` with other batches; those that are ready are thrown away."""
        self._end()
        self._start(make, step)

    def next(self) -> ReadyBatch:
        """The next batch. Raises what its making raised."""
        began = time.perf_counter()
        batch = self._ready.get()
        self.waited += time.perf_counter() - began
        if isinstance(batch, BaseException):
            raise batch
        return batch

    def _start(self, make: Callable[[int], ReadyBatch], step: int) -> None:
        self._ready: queue.Queue[ReadyBatch | BaseException] = queue.Queue(AHEAD)
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(make, step), name="feed", daemon=True)
        self._thread.start()

    def _end(self) -> None:
        self._over.set()
        self._thread.join()

    def _run(self, make: Callable[[int], ReadyBatch], step: int) -> None:
        while not self._over.is_set():
            made: ReadyBatch | BaseException
            try:
                made = make(step)
            except BaseException as error:  # handed to whoever asks for the batch
                made = error
            while not self._over.is_set():
                try:
                    self._ready.put(made, timeout=0.1)
                    break
                except queue.Full:
                    continue
            if isinstance(made, BaseException):
                return
            step += 1
