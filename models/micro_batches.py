"""Embeds a batch and sends gradients back through the towers, all at once or part by part in bounded memory."""

# B = global batch, b = this rank's share of it, U = unique texts, D = embedding, M = rows of a part

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import nn

from models.contrastive import single
from models.feed import ReadyBatch
from models.towers import DualEncoder


@dataclass(frozen=True)
class _Part:
    """Some rows of one side's embeddings."""

    side: int
    """0 for images, 1 for texts."""
    rows: slice
    encode: Callable[[], torch.Tensor]


class MicroBatches:
    """The embeddings of a batch, and their way back.

    Where a batch has more rows than a part may have, the parts are embedded without a graph, the loss gives the
    gradient of every embedding, and each part is embedded again, with the same randomness, to send its share of that
    gradient through the towers (GradCache, Gao et al. 2021). The sum is the gradient of the whole batch, unless a tower
    normalises over the batch.
    """

    def __init__(self, encoder: DualEncoder, rows: int | None, *, half: bool, seed: tuple[int, ...]) -> None:
        """`rows` of a part, None for all; `half` runs the towers in bfloat16; `seed` is of dropout in the towers."""
        self._encoder, self._rows, self._half, self._seed = encoder, rows, half, seed
        self._parts: list[_Part] = []
        self._sides: list[torch.Tensor] = []

    def embed(self, batch: ReadyBatch) -> tuple[torch.Tensor, torch.Tensor]:
        """Embeddings of the images (b, D) and of the unique texts (U, D), to compute a loss of."""
        sizes = len(batch.image_bCHW), len(batch.token_UL)
        encoders = (
            lambda rows: self._encoder.encode_images(batch.image_bCHW[rows]),
            lambda rows: self._encoder.encode_texts(batch.token_UL[rows]),
        )
        self._parts = []
        for side, (size, encode) in enumerate(zip(sizes, encoders, strict=True)):
            height = self._rows or size
            for start in range(0, size, height):
                rows = slice(start, min(start + height, size))
                seed = (*self._seed, batch.step, len(self._parts))
                self._parts.append(_Part(side, rows, partial(self._seeded, seed, encode, rows)))
        if self._whole:
            self._sides = [part.encode() for part in self._parts]
        else:
            with torch.no_grad(), _statistics_kept(self._encoder.network):
                found = [(part.side, part.encode()) for part in self._parts]
            self._sides = [
                torch.cat([embedding_MD for own, embedding_MD in found if own == side]).requires_grad_()
                for side in range(len(sizes))
            ]
        image_bD, text_UD = self._sides
        return image_bD, text_UD

    def backward(self, loss: torch.Tensor) -> None:
        """Adds the gradients of the towers' weights, and of the loss's own."""
        loss.backward()  # type: ignore[no-untyped-call]
        if not self._whole:
            for part in self._parts:
                gradient = self._sides[part.side].grad
                assert gradient is not None, "a loss depends on images and texts"
                part.encode().backward(gradient[part.rows])  # type: ignore[no-untyped-call]

    @property
    def _whole(self) -> bool:
        return len(self._parts) == 2

    def _seeded(self, seed: tuple[int, ...], encode: Callable[[slice], torch.Tensor], rows: slice) -> torch.Tensor:
        torch.manual_seed(int(np.random.SeedSequence(seed).generate_state(1)[0]))
        with torch.autocast(self._encoder.device.type, torch.bfloat16, enabled=self._half):
            return single(encode(rows))


@contextmanager
def _statistics_kept(network: nn.Module) -> Iterator[None]:
    """Batch normalisation takes its statistics from the second pass alone."""
    layers = [each for each in network.modules() if isinstance(each, nn.modules.batchnorm._BatchNorm)]
    momenta = [layer.momentum for layer in layers]
    for layer in layers:
        layer.momentum = 0.0
    try:
        yield
    finally:
        for layer, momentum in zip(layers, momenta, strict=True):
            layer.momentum = momentum
