"""The frozen first part of an image tower: what it makes of an image stays the same, whatever else is trained.

Its output is computed once an image and kept. The tower with its trunk put aside takes that output where it took
pixels, so that training and embedding work on it as they are.
"""

# B = batch, C = colours, H = height, W = width, F = values of the trunk's output, D = embedding

import hashlib
import json
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from typing import Any

import torch
from torch import nn

from pairloom.models.towers.config import ModelConfig
from pairloom.models.towers.dual_encoder import DualEncoder

_HEAD_SETTINGS = ("timm_proj", "timm_proj_bias", "timm_drop")
"""What of `vision_cfg` shapes a timm tower's projection alone."""


class Trunk:
    """The submodule of an image tower that pixels pass first, in evaluation mode."""

    def __init__(self, encoder: DualEncoder, name: str) -> None:
        self._encoder, self._name = encoder, name
        self.module: nn.Module = encoder.network.visual.get_submodule(name).eval()  # type: ignore[union-attr]
        settings = encoder.preprocess_cfg
        height, width = settings["size"] if isinstance(settings["size"], (list, tuple)) else (settings["size"],) * 2
        with torch.no_grad():
            output = self.module(torch.zeros(1, 3, height, width, device=encoder.device))
        self._shape = tuple(output.shape[1:])

    @property
    def width(self) -> int:
        """F: how many values are kept of an image."""
        return math.prod(self._shape)

    @cached_property
    def digest(self) -> str:
        """Of all that its output follows from: weights, shape and preprocessing."""
        config = self._encoder.config["model_cfg"]["vision_cfg"]
        shape = {key: value for key, value in config.items() if key not in _HEAD_SETTINGS}
        settings = [self._name, self._shape, shape, self._encoder.preprocess_cfg]
        return trunk_digest(settings, self.module.state_dict())

    def features(self, image_BCHW: torch.Tensor) -> torch.Tensor:
        """Float32 (B, F) of normalised pixels."""
        output: torch.Tensor = self.module(image_BCHW.to(self._encoder.device))
        return output.flatten(1)

    @contextmanager
    def aside(self) -> Iterator[None]:
        """Inside, the image tower takes features (B, F) instead of pixels, and has none of the trunk's weights."""
        visual: Any = self._encoder.network.visual
        visual.register_module(self._name, nn.Unflatten(1, self._shape) if len(self._shape) > 1 else nn.Identity())
        try:
            yield
        finally:
            visual.register_module(self._name, self.module)


def trunk_digest(settings: Any, weights: Mapping[str, torch.Tensor]) -> str:
    """Digest of a trunk's settings, which are JSON, and of its weights by name."""
    found = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    for name, tensor in weights.items():
        if not name.endswith("num_batches_tracked"):
            flat = tensor.detach().cpu().contiguous().flatten()
            found.update(name.encode() + flat.view(torch.uint8).numpy().tobytes())
    return found.hexdigest()[:16]


def frozen_trunk(encoder: DualEncoder, config: ModelConfig) -> Trunk | None:
    """A locked timm tower's trunk, which no training of `config` moves; None where there is none."""
    if not config.freezes_trunk or encoder.second or not hasattr(encoder.network.visual, "trunk"):
        return None
    return Trunk(encoder, "trunk")
