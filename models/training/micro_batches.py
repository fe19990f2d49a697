"""Embeds a batch and sends gradients back through the towers, all at once or part by part in bounded memory."""

# B = global batch, b = this rank's share of it, U = unique texts, D = embedding, M = rows of a part,
# X = axes that a tower takes

from collections.abc import Callable, Iterator
from collections.abc import Set as AbstractSet
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import get_args

import numpy as np
import torch
from torch import nn

from pairloom.models.batches.config import Side
from pairloom.models.batches.feed import ReadyBatch
from pairloom.models.objectives.log_sum_exp import single
from pairloom.models.towers.dual_encoder import DualEncoder

SIDES: tuple[Side, ...] = get_args(Side)
TEXTS: AbstractSet[str] = {"text", "text_view"}
Encode = Callable[..., torch.Tensor]


@dataclass(frozen=True)
class _Part:
    """Some rows of one side's embeddings."""

    side: str
    """`image`, `image_view`, or `text` for the unique texts of all sides of texts."""
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
        self._whole = True
        self._sides: dict[str, torch.Tensor] = {}

    def embed(
        self, batch: ReadyBatch, wanted: AbstractSet[str] = frozenset({"image", "text"})
    ) -> dict[Side, torch.Tensor]:
        """Embeddings (b, D) of each wanted side, to compute a loss of."""
        inputs = self._inputs(batch, wanted)
        self._parts = []
        for side, (inputs_bX, encode) in inputs.items():
            size = len(inputs_bX[0])
            height = self._rows or size
            for start in range(0, size, height):
                rows = slice(start, min(start + height, size))
                seed = (*self._seed, batch.step, len(self._parts))
                self._parts.append(
                    _Part(side, rows, partial(self._seeded, seed, encode, *(each[rows] for each in inputs_bX)))
                )
        self._whole = len(self._parts) == len(inputs)
        if self._whole:
            self._sides = {part.side: part.encode() for part in self._parts}
        else:
            with torch.no_grad(), _statistics_kept(self._encoder.network):
                found = [(part.side, part.encode()) for part in self._parts]
            self._sides = {
                side: torch.cat([embedding_MD for own, embedding_MD in found if own == side]).requires_grad_()
                for side in inputs
            }
        embedded: dict[Side, torch.Tensor] = {}
        for side in SIDES:
            if side in wanted:
                text_b = batch.view_text_b if side == "text_view" else batch.text_b
                embedded[side] = self._sides["text"][text_b] if side in TEXTS else self._sides[side]
        return embedded

    def backward(self, loss: torch.Tensor) -> None:
        """Adds the gradients of the towers' weights, and of the loss's own."""
        loss.backward()  # type: ignore[no-untyped-call]
        if not self._whole:
            for part in self._parts:
                gradient = self._sides[part.side].grad
                if gradient is not None:  # a loss may leave a side out of a step
                    part.encode().backward(gradient[part.rows])  # type: ignore[no-untyped-call]

    def _inputs(
        self, batch: ReadyBatch, wanted: AbstractSet[str]
    ) -> dict[str, tuple[tuple[torch.Tensor, ...], Encode]]:
        """What is embedded, row by row, and how."""
        inputs: dict[str, tuple[tuple[torch.Tensor, ...], Encode]] = {}
        towers = () if batch.second_b is None else (batch.second_b,)
        if "image" in wanted:
            inputs["image"] = (batch.image_bCHW, *towers), self._encoder.encode_images
        if "image_view" in wanted:
            assert batch.view_bCHW is not None, "the batch source was asked for views"
            inputs["image_view"] = (batch.view_bCHW, *towers), self._encoder.encode_images
        if wanted & TEXTS:
            inputs["text"] = (batch.token_UL,), self._encoder.encode_texts
        return inputs

    def _seeded(self, seed: tuple[int, ...], encode: Encode, *inputs_MX: torch.Tensor) -> torch.Tensor:
        torch.manual_seed(int(np.random.SeedSequence(seed).generate_state(1)[0]))
        with torch.autocast(self._encoder.device.type, torch.bfloat16, enabled=self._half):
            return single(encode(*inputs_MX))


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
