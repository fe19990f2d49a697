"""The frozen first part of an image tower: what it makes of an image stays the same, whatever else is trained.

Its output is computed once an image and kept. The tower with its trunk put aside takes that output where it took
pixels, so that training and embedding work on it as they are.
"""

# B = batch, C = colours, H = height, W = width, L = tokens, F = values of the trunk's output, D = embedding

import copy
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
    """What pixels pass first in an image tower, in evaluation mode."""

    def __init__(self, encoder: DualEncoder) -> None:
        self._encoder = encoder
        visual: Any = encoder.network.visual
        self._name = "visual" if has_token_head(visual) else "visual.trunk"
        self.module: nn.Module = (_without_head(visual) if has_token_head(visual) else visual.trunk).eval()
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
        settings = [self._name.removeprefix("visual."), self._shape, shape, self._encoder.preprocess_cfg]
        return trunk_digest(settings, self.module.state_dict())

    def features(self, image_BCHW: torch.Tensor) -> torch.Tensor:
        """Float32 (B, F) of normalised pixels."""
        image_BCHW = image_BCHW.to(self._encoder.device)
        if _reads_class_token(self.module):
            return _class_token(self.module, image_BCHW)
        output: torch.Tensor = self.module(image_BCHW)
        return output.flatten(1)

    @contextmanager
    def aside(self) -> Iterator[None]:
        """Inside, the image tower takes features (B, F) instead of pixels, and has none of the trunk's weights."""
        network: Any = self._encoder.network
        whole = network.get_submodule(self._name)
        if self._name == "visual":
            rest: nn.Module = TokenHead(whole)
        else:
            rest = nn.Unflatten(1, self._shape) if len(self._shape) > 1 else nn.Identity()
        network.set_submodule(self._name, rest)
        try:
            yield
        finally:
            network.set_submodule(self._name, whole)


class TokenHead(nn.Module):
    """The head of open_clip's vision transformer alone, its weights under the names that they have in the whole."""

    def __init__(self, visual: Any) -> None:
        super().__init__()
        self.ln_post, self.proj, self.preprocess_cfg = visual.ln_post, visual.proj, visual.preprocess_cfg

    def forward(self, feature_BF: torch.Tensor) -> torch.Tensor:
        """Embeddings (B, D), not normalised, of pooled tokens."""
        embedding_BD: torch.Tensor = self.ln_post(feature_BF) @ self.proj
        return embedding_BD

    def lock(self, unlocked_groups: int = 0) -> None:
        """Freezes nothing: what a lock freezes isn't here."""


def has_token_head(visual: Any) -> bool:
    """Whether a tower is open_clip's vision transformer that normalises and projects the pooled token last."""
    return getattr(visual, "final_ln_after_pool", False) and visual.attn_pool is None and visual.proj is not None


def _without_head(visual: Any) -> nn.Module:
    """The same vision transformer, with the same weights, up to the pooled token."""
    body = copy.copy(visual)
    body._modules, body._parameters = dict(visual._modules), dict(visual._parameters)
    body.ln_post, body.proj = nn.Identity(), None
    found: nn.Module = body
    return found


def _reads_class_token(body: Any) -> bool:
    """Whether a trunk is a vision transformer of usual blocks of whose last one nothing but the class token is read."""
    from open_clip.transformer import ResidualAttentionBlock

    if getattr(body, "pool_type", None) != "tok" or not body.transformer.batch_first:
        return False
    return type(body.transformer.resblocks[-1]) is ResidualAttentionBlock


def _class_token(body: Any, image_BCHW: torch.Tensor) -> torch.Tensor:
    """(B, W): what the transformer makes of images, its last block computed for the token that is read alone."""
    token_BLW = body._embeds(image_BCHW)
    *others, last = body.transformer.resblocks
    for block in others:
        token_BLW = block(token_BLW)
    normed_BLW, class_B1W = last.ln_1(token_BLW), token_BLW[:, :1]
    class_B1W = class_B1W + last.ls_1(last.attention(normed_BLW[:, :1], normed_BLW, normed_BLW))
    class_B1W = class_B1W + last.ls_2(last.mlp(last.ln_2(class_B1W)))
    found_BW: torch.Tensor = class_B1W[:, 0]
    return found_BW


def trunk_digest(settings: Any, weights: Mapping[str, torch.Tensor]) -> str:
    """Digest of a trunk's settings, which are JSON, and of its weights by name."""
    found = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    for name, tensor in weights.items():
        if not name.endswith("num_batches_tracked"):
            flat = tensor.detach().cpu().contiguous().flatten()
            found.update(name.encode() + flat.view(torch.uint8).numpy().tobytes())
    return found.hexdigest()[:16]


def frozen_trunk(encoder: DualEncoder, config: ModelConfig) -> Trunk | None:
    """A locked tower's trunk, which no training of `config` moves; None where there is none.

    That of a vision transformer only with `closed_form_start`: without it the lock freezes its head too.
    """
    visual = encoder.network.visual
    has_head = hasattr(visual, "trunk") or (config.closed_form_start and has_token_head(visual))
    return Trunk(encoder) if config.freezes_trunk and not encoder.second and has_head else None
