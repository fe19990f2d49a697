"""Batches made ready aside, while the step before them is computed: pixels, augmentation, tokens, targets."""

# N = items, T = unique texts, K = hard negatives an anchor, B = global batch, b = this rank's share of it,
# U = its unique texts, L = tokens

import _thread
import contextlib
import itertools
import time
import weakref
from collections.abc import Callable, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue
from typing import Self

import numpy as np
import numpy.typing as npt
import torch

from pairloom.models.arrays import Features, Indices, Mask
from pairloom.models.batches.augmentation import augment, draw_changes
from pairloom.models.batches.config import AugmentationConfig
from pairloom.models.batches.pairs import BatchPairs, ItemPairs
from pairloom.models.batches.pixels import StreamedPixels, normalize_pixels
from pairloom.models.batches.plan import BatchPlan
from pairloom.models.batches.relations import Relations
from pairloom.models.batches.targets import Targets
from pairloom.models.geometry import Pixels
from pairloom.models.ranks import ALONE, Ranks
from pairloom.models.towers.dual_encoder import DualEncoder

AHEAD = 1
"""Batches kept ready, beside the one in the making."""


@dataclass(frozen=True)
class TrainingItems:
    """What is trained on: N items in one order."""

    item_ids: tuple[str, ...]
    pixels: Pixels | Features | StreamedPixels
    """Uint8 (N, H, W, 3), of the size that the model takes, kept or made on demand; or float32 (N, F), the output of
    a trunk that is put aside, which is given to the tower as it is."""
    relations: Relations
    """With the items' texts."""
    negatives_NK: npt.NDArray[np.int32] | None = None
    """Mined hard negatives of each item, hardest first, -1 for none."""
    pairs: Mapping[str, ItemPairs] = field(default_factory=dict)
    """Given and mined pairs by relation, beside the positives of `relations`."""
    second_N: Mask | None = None
    """Which items the second image tower encodes; None where there is one tower."""


@dataclass(frozen=True)
class ReadyBatch:
    """One rank's share of a step's batch."""

    step: int
    count: int
    """B, over all ranks."""
    items_B: torch.Tensor
    """Row numbers of all B items among the N; int64."""
    image_bCHW: torch.Tensor
    """Normalised and augmented."""
    token_UL: torch.Tensor
    """Each text once, cut to the longest."""
    text_b: torch.Tensor
    """Which of the U texts belongs to each item; int64."""
    targets: Targets
    """Positives among all B items and texts."""
    view_bCHW: torch.Tensor | None = None
    """The same images with other random changes; where asked for."""
    view_text_b: torch.Tensor | None = None
    """Which of the U texts is another one of each item; where asked for."""
    item_targets: Targets | None = None
    """Positives among all B items, each item its own; where asked for."""
    pairs: Mapping[str, BatchPairs] = field(default_factory=dict)
    """Pairs among all B items by relation; where asked for."""
    texts_B: torch.Tensor | None = None
    """Row numbers of all B items' texts among the T; int64."""
    second_B: torch.Tensor | None = None
    """Bool: which of all B items the second image tower encodes; None where there is one tower."""
    second_b: torch.Tensor | None = None
    """The same of this rank's images."""


@dataclass(frozen=True)
class BatchSource:
    """Makes the batch of any step, the same for any number of ranks."""

    items: TrainingItems
    plan: BatchPlan
    encoder: DualEncoder
    token_TL: torch.Tensor
    augmentation: AugmentationConfig | None
    ranks: Ranks = ALONE
    wants: AbstractSet[str] = frozenset({"image", "text"})
    """Sides, `item_targets` and `pairs`, as objectives ask for them."""

    def batch(self, step: int) -> ReadyBatch:
        """A pure function of the plan's seed and the step."""
        batch = self.plan.batch(step)
        count, device = len(batch.items_B), self.encoder.device
        own = self.ranks.own(count)
        image_bX = tower_input(self.items.pixels[batch.items_B[own]], self.encoder)
        texts_2b = batch.texts_B[None, own]
        if "text_view" in self.wants:
            texts_2b = np.stack([batch.texts_B, self.plan.other_texts(step, batch)])[:, own]
        texts_U, places = np.unique(texts_2b, return_inverse=True)
        text_2b = torch.from_numpy(places.reshape(texts_2b.shape)).to(device)
        second_N = self.items.second_N
        second_B = None if second_N is None else torch.from_numpy(second_N[batch.items_B]).to(device)
        return ReadyBatch(
            step,
            count,
            torch.from_numpy(batch.items_B).to(device),
            self._changed(image_bX, count, own, step),
            self.encoder.trim(self.token_TL[texts_U]).to(device),
            text_2b[0],
            self._targets(batch.items_B, batch.texts_B, device),
            view_bCHW=self._changed(image_bX, count, own, ~step) if "image_view" in self.wants else None,
            view_text_b=text_2b[1] if "text_view" in self.wants else None,
            item_targets=self._item_targets(batch.items_B, device) if "item_targets" in self.wants else None,
            pairs={relation: pairs.within(batch.items_B).to(device) for relation, pairs in self.items.pairs.items()}
            if "pairs" in self.wants
            else {},
            texts_B=torch.from_numpy(batch.texts_B).to(device),
            second_B=second_B,
            second_b=None if second_B is None else second_B[own],
        )

    def _changed(self, image_bCHW: torch.Tensor, count: int, own: slice, draw: int) -> torch.Tensor:
        """The images under the random changes of a draw; features stay as they are."""
        if not self.augmentation or image_bCHW.ndim == 2:
            return image_bCHW
        generator = torch.Generator().manual_seed((self.plan.seed * 1_000_003 + draw) % 2**63)
        return augment(image_bCHW, draw_changes(count, self.augmentation, generator).of(own))

    def _item_targets(self, items_B: Indices, device: torch.device) -> Targets:
        return Targets.from_sparse(self.items.relations.item_targets(items_B), device)

    def _targets(self, items_B: Indices, texts_B: Indices, device: torch.device) -> Targets:
        return Targets.from_sparse(self.items.relations.text_targets(items_B, texts_B), device)


def tower_input(images: Pixels | Features, encoder: DualEncoder) -> torch.Tensor:
    """What the image tower takes, on its device: normalised pixels (B, 3, H, W), or features (B, F) as they are."""
    if images.dtype == np.uint8:
        return normalize_pixels(images.astype(np.uint8, copy=False), encoder.preprocess_cfg, encoder.device)
    return torch.from_numpy(np.array(images)).to(encoder.device)


@dataclass
class _Shared:
    """What the thread that makes batches and the one that takes them share.

    An interrupt may come between any two steps of Python: between taking a lock and giving it back, too, even inside
    `threading`. So here are only things whose operations are single steps.
    """

    wanted: "SimpleQueue[int | None]" = field(default_factory=SimpleQueue)
    made: "SimpleQueue[ReadyBatch | BaseException]" = field(default_factory=SimpleQueue)
    busy: bool = False
    """Whether the thread has begun, and not ended."""


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
        batch = self._shared.made.get()
        self.waited += time.perf_counter() - began
        self._shared.wanted.put(next(self._steps))
        if isinstance(batch, BaseException):
            raise batch
        return batch

    def _start(self, make: Callable[[int], ReadyBatch], step: int) -> None:
        self._shared = shared = _Shared()
        # Where an interrupt comes before the block is entered, nobody calls `_end`.
        weakref.finalize(self, shared.wanted.put, None)
        self._steps = itertools.count(step)
        for ahead in itertools.islice(self._steps, AHEAD + 1):
            shared.wanted.put(ahead)
        _thread.start_new_thread(_make_batches, (make, shared))

    def _end(self) -> None:
        """Waits for the batch in the making, and for no other."""
        shared = self._shared
        with contextlib.suppress(Empty):
            while True:
                shared.wanted.get_nowait()
        shared.wanted.put(None)
        while shared.busy:
            time.sleep(0.001)


def _make_batches(make: Callable[[int], ReadyBatch], shared: _Shared) -> None:
    shared.busy = True
    while (step := shared.wanted.get()) is not None:
        try:
            shared.made.put(make(step))
        except BaseException as error:  # handed to whoever asks for the batch
            shared.made.put(error)
    shared.busy = False
