"""The frozen first part of a text tower: all before its projection, where a training moves that alone.

What it makes of a text is computed once and kept, as an image tower's is (`pairloom.models.towers.trunk`).
"""

# B = batch, L = tokens, F = values of the trunk's output, D = embedding

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from hashlib import sha256
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from pairloom.models.towers.config import ModelConfig
from pairloom.models.towers.dual_encoder import DualEncoder
from pairloom.models.towers.same_tower import IMAGE_TOWER, LOSS
from pairloom.models.towers.second_tower import PLAIN_NETWORKS, PREFIX
from pairloom.models.towers.trunk import trunk_digest


class TextTrunk:
    """What a text's tokens pass before the projection, in evaluation mode."""

    def __init__(self, encoder: DualEncoder, head: str) -> None:
        self._encoder, self._head = encoder, head
        self._tower: Any = getattr(encoder.network, "text", encoder.network)

    @cached_property
    def width(self) -> int:
        """F: how many values are kept of a text."""
        with torch.inference_mode():
            return self.features(self._encoder.tokenize([""])).shape[1]

    @cached_property
    def digest(self) -> str:
        """Of all that its output follows from: weights, shape and tokenizer."""
        files = {name: sha256(content).hexdigest() for name, content in self._encoder.tokenizer_files.items()}
        settings = [self._head, self._encoder.config["model_cfg"]["text_cfg"], files]
        # Of a network whose text tower is no module of its own, the rest is not the text's.
        others = (self._head, IMAGE_TOWER, PREFIX, *LOSS)
        own = {name: each for name, each in self._tower.state_dict().items() if not name.startswith(others)}
        return trunk_digest(settings, own)

    def features(self, token_BL: torch.Tensor) -> torch.Tensor:
        """Float32 (B, F) of token ids, which may be trimmed."""
        with self._without_head():
            return self._encoder.encode_texts(token_BL, normalize=False)

    def embeddings(self, feature_BF: torch.Tensor) -> torch.Tensor:
        """L2-normalised embeddings (B, D) that follow from the trunk's output."""
        head, feature_BF = getattr(self._tower, self._head), feature_BF.to(self._encoder.device)
        return F.normalize(head(feature_BF) if isinstance(head, nn.Module) else feature_BF @ head, dim=-1)

    @contextmanager
    def _without_head(self) -> Iterator[None]:
        head = getattr(self._tower, self._head)
        # open_clip's own towers have none where they need none; Hugging Face's and ours call what is there.
        called = self._head == "proj" or not hasattr(self._tower, "transformer")
        setattr(self._tower, self._head, nn.Identity() if called else None)
        try:
            yield
        finally:
            setattr(self._tower, self._head, head)


def frozen_text_trunk(encoder: DualEncoder, config: ModelConfig) -> TextTrunk | None:
    """That of a text tower of which a training of `config` moves the projection alone; None of any other.

    A Hugging Face tower's projection is trained where all of the tower is locked, another one's where the last group of
    layers isn't.
    """
    if not config.lock_text or config.lora is not None or type(encoder.network).__name__ not in PLAIN_NETWORKS:
        return None
    foreign = "hf_model_name" in encoder.config["model_cfg"]["text_cfg"]
    head = "proj" if foreign else "text_projection"
    projection = getattr(getattr(encoder.network, "text", encoder.network), head, None)
    if projection is None or isinstance(projection, nn.Identity):
        return None
    return TextTrunk(encoder, head) if config.unlocked_text_groups == (0 if foreign else 1) else None
