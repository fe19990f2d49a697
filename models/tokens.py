"""What the towers know before they pool it: a token for each patch of an image and for each piece of a text."""

# B = images, U = texts, P = patches, L = tokens, F = width of a tower, D = embedding

from typing import Any

import torch

from models.towers import DualEncoder


@torch.no_grad()
def image_tokens(encoder: DualEncoder, image_BCHW: torch.Tensor) -> torch.Tensor:
    """(B, P, F) of normalised pixels: the last layer's patches or cells, without gradients.

    An image tower that tells none has its embedding as the only one.
    """
    visual: Any = encoder.network.visual
    if not hasattr(visual, "forward_intermediates"):
        return encoder.encode_images(image_BCHW)[:, None]
    # open_clip's own transformers leave patches out while they train, so theirs make no grid; other towers give grids.
    layout = "NLC" if hasattr(visual, "transformer") else "NCHW"
    image_BCHW = image_BCHW.to(encoder.device)
    found = visual.forward_intermediates(image_BCHW, indices=1, intermediates_only=True, output_fmt=layout)
    token: torch.Tensor = found["image_intermediates"][-1]
    return token if token.ndim == 3 else token.flatten(2).transpose(1, 2)


@torch.no_grad()
def text_tokens(encoder: DualEncoder, token_UL: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(U, L, F) of token ids, which may be trimmed, without gradients; and (U, L): false for padding.

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
        return embedding_UD[:, None], torch.ones(len(token_UL), 1, dtype=torch.bool, device=embedding_UD.device)
    return token, token_UL.to(embedding_UD.device) != _padding(encoder)


def _padding(encoder: DualEncoder) -> int:
    """The token id that texts are filled up with."""
    text_cfg = encoder.config["model_cfg"]["text_cfg"]
    if "hf_model_name" in text_cfg:
        return int(encoder.tokenizer.tokenizer.pad_token_id)
    return int(text_cfg.get("pad_id", 0))
