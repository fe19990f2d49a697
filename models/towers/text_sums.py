"""Weights for a text transformer that adds up what its tokens stand for."""

# V = tokens, W = width, D = embedding

import math
from typing import Any

import torch

from pairloom.models.arrays import Values
from pairloom.models.towers.dual_encoder import DualEncoder

BESIDE = 3
"""Dimensions that the tower needs beside the embedding's: two constants, and one that stays empty."""
STEADY = 20.0
"""Constants beside the content that keep layer normalisation from changing its scale."""


def token_texts(encoder: DualEncoder) -> list[str]:
    """What each token of a Hugging Face vocabulary spells; nothing for marks, and for bytes that are half a letter.

    ValueError for a tokenizer of another kind.
    """
    tokenizer = getattr(encoder.tokenizer, "tokenizer", None)
    if tokenizer is None:
        raise ValueError("model.closed_form_start needs a Hugging Face tokenizer: text_cfg.hf_tokenizer_name: fitted")
    marks = set(tokenizer.all_special_ids)
    spelled = tokenizer.batch_decode([[token] for token in range(len(tokenizer))])
    return [
        "" if token in marks or "\N{REPLACEMENT CHARACTER}" in text else text.strip()
        for token, text in enumerate(spelled)
    ]


def add_up_tokens(encoder: DualEncoder, token_VD: Values) -> None:
    """Gives the text tower weights, in place, that send a text where the sum of its tokens' vectors points.

    The end of the text looks at all tokens alike; the hidden layers add nothing, and are free to learn. ValueError
    where the text tower is another than open_clip's causal transformer that is wide enough.
    """
    network: Any = encoder.network
    text = getattr(network, "text", network)
    dimensions = token_VD.shape[1]
    plus, minus, zero = range(dimensions, dimensions + BESIDE)
    projection = getattr(text, "text_projection", None)
    if not isinstance(projection, torch.nn.Parameter) or encoder.text_end is None or len(projection) <= zero:
        raise ValueError(
            "model.closed_form_start needs a text transformer of open_clip's that pools at the end of the text, with a "
            f"text_cfg.width of embed_dim + {BESIDE} = {dimensions + BESIDE} or more"
        )
    width, rows = len(projection), slice(0, dimensions)
    length = math.sqrt(float((token_VD**2).sum(axis=1).mean())) or 1.0
    scale = STEADY * math.sqrt(2 / width)
    with torch.no_grad():
        text.token_embedding.weight.zero_()
        text.token_embedding.weight[: len(token_VD), rows] = torch.tensor(token_VD / length, dtype=torch.float32)
        text.positional_embedding.zero_()
        text.positional_embedding[:, plus], text.positional_embedding[:, minus] = STEADY, -STEADY
        for number, block in enumerate(text.transformer.resblocks):
            for parameter in (*block.attn.parameters(), *block.mlp.c_proj.parameters()):
                parameter.zero_()
            if number == 0:
                value_WW = block.attn.in_proj_weight[2 * width :]
                value_WW[rows, rows] = scale * torch.eye(dimensions)
                value_WW[rows, zero] = -scale
                block.attn.out_proj.weight.copy_(torch.eye(width))
        projection.zero_()
        projection[rows] = torch.eye(dimensions)
        projection[zero] = -1
