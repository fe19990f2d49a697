"""What the towers know before they pool it: a token for each patch of an image and for each piece of a text."""

# B = images, U = texts, P = patches, L = tokens, F = width of a tower, D = embedding

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F

from pairloom.models.towers.dual_encoder import DualEncoder


@dataclass(frozen=True)
class States:
    """What a tower makes of B images or texts."""

    token_BPF: torch.Tensor
    real_BP: torch.Tensor
    """False for padding."""
    embedding_BD: torch.Tensor
    """L2-normalised."""


def image_states(encoder: DualEncoder, image_BCHW: torch.Tensor) -> States:
    """The last layer's patches or cells of normalised pixels.

    An image tower that tells none has its embedding as the only one.
    """
    visual: Any = encoder.network.visual
    if not hasattr(visual, "forward_intermediates"):
        return _alone(encoder.encode_images(image_BCHW))
    # open_clip's own transformers leave patches out while they train, so theirs make no grid; other towers give grids.
    layout = "NLC" if hasattr(visual, "transformer") else "NCHW"
    image_BCHW = image_BCHW.to(encoder.device)
    found = visual.forward_intermediates(image_BCHW, indices=1, output_fmt=layout)
    token: torch.Tensor = found["image_intermediates"][-1]
    token_BPF = token if token.ndim == 3 else token.flatten(2).transpose(1, 2)
    return States(token_BPF, _all(token_BPF), F.normalize(found["image_features"], dim=-1))


def text_states(encoder: DualEncoder, token_UL: torch.Tensor) -> States:
    """The last layer's tokens of token ids, which may be trimmed.

    A text tower that tells none has its embedding as the only one.
    """
    network: Any = encoder.network
    tower = getattr(network, "text", network)
    last = tower.transformer if hasattr(tower, "pooler") else getattr(tower, "ln_final", None)
    kept: list[Any] = []
    if last is not None:
        handle = last.register_forward_hook(lambda _module, _inputs, output: kept.append(output))
    try:
        embedding_UD = encoder.encode_texts(token_UL)
    finally:
        if last is not None:
            handle.remove()
    token = getattr(kept[-1], "last_hidden_state", kept[-1]) if kept else embedding_UD
    if token.shape[:-1] != token_UL.shape:
        return _alone(embedding_UD)
    return States(token, token_UL.to(token.device) != _padding(encoder), embedding_UD)


def _alone(embedding_BD: torch.Tensor) -> States:
    token_B1D = embedding_BD[:, None]
    return States(token_B1D, _all(token_B1D), embedding_BD)


def _all(token_BPF: torch.Tensor) -> torch.Tensor:
    return torch.ones(token_BPF.shape[:2], dtype=torch.bool, device=token_BPF.device)


def _padding(encoder: DualEncoder) -> int:
    """The token id that texts are filled up with."""
    text_cfg = encoder.config["model_cfg"]["text_cfg"]
    if "hf_model_name" in text_cfg:
        return int(encoder.tokenizer.tokenizer.pad_token_id)
    return int(text_cfg.get("pad_id", 0))
