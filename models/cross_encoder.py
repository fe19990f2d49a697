"""The two-input network: an image and a text in, one score out. A text's tokens look at the image's patches."""

# B = images, U = texts, P = patches, L = tokens, W = width, M = pairs, E = heads, S = width of a head

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from models.towers import DualEncoder

SIDE = 32
"""Pixels that images are shrunk to."""
PATCH = 8
"""Pixels a patch, each way."""


@dataclass(frozen=True)
class Texts:
    """Texts, read once for all pairs that they are in."""

    token_ULW: torch.Tensor
    real_UL: torch.Tensor
    """False for padding."""


class CrossEncoder(nn.Module):
    """Reads images and texts each once, then any pairs of them.

    What both sides are in a pair costs most, so only the text's few tokens are computed for every pair: in each layer
    they attend to the image's patches, whose keys and values are computed once an image.
    """

    def __init__(self, encoder: DualEncoder, width: int, layers: int, heads: int) -> None:
        """Made for the pixels and the tokens of `encoder`, whose weights it doesn't use."""
        super().__init__()
        text_cfg = encoder.config["model_cfg"]["text_cfg"]
        self._padding = int(text_cfg.get("pad_id", 0))
        self.patches = nn.Conv2d(3, width, PATCH, stride=PATCH)
        self.places = nn.Parameter(0.02 * torch.randn((SIDE // PATCH) ** 2, width))
        self.words = nn.Embedding(_vocabulary(encoder), width)
        self.positions = nn.Parameter(0.01 * torch.randn(encoder.context_length, width))
        nn.init.normal_(self.words.weight, std=0.02)
        self.image_layer, self.text_layer = (
            nn.TransformerEncoderLayer(width, heads, 2 * width, 0.0, F.gelu, batch_first=True, norm_first=True)
            for _ in range(2)
        )
        self.image_norm, self.text_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.layers = nn.ModuleList(_Layer(width, heads) for _ in range(layers))
        self.head = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width), nn.GELU(), nn.Linear(width, 1))

    def read_images(self, image_BCHW: torch.Tensor) -> list[torch.Tensor]:
        """Each layer's keys and values (2, B, E, P, S) of normalised pixels."""
        small_BCHW = F.interpolate(image_BCHW, size=(SIDE, SIDE), mode="area")
        patch_BPW = self.patches(small_BCHW).flatten(2).transpose(1, 2) + self.places
        patch_BPW = self.image_norm(self.image_layer(patch_BPW))
        return [layer.look_at(patch_BPW) for layer in self.layers]  # type: ignore[operator]  # a ModuleList of layers

    def read_texts(self, token_UL: torch.Tensor) -> Texts:
        """Token ids, which may be trimmed."""
        real_UL = token_UL != self._padding
        token_ULW = self.words(token_UL) + self.positions[: token_UL.shape[1]]
        return Texts(self.text_norm(self.text_layer(token_ULW, src_key_padding_mask=~real_UL)), real_UL)

    def forward(
        self, images: list[torch.Tensor], texts: Texts, image_M: torch.Tensor, text_M: torch.Tensor
    ) -> torch.Tensor:
        """The score (M,) of each pair, given by the rows of its image and its text."""
        token_MLW, real_ML = texts.token_ULW[text_M], texts.real_UL[text_M]
        for layer, seen in zip(self.layers, images, strict=True):
            token_MLW = layer(token_MLW, seen[:, image_M])
        weight_ML = real_ML / real_ML.sum(dim=1, keepdim=True)
        score_M: torch.Tensor = self.head(torch.einsum("mlw,ml->mw", token_MLW, weight_ML)).squeeze(1)
        return score_M


class _Layer(nn.Module):
    """Cross-attention and a perceptron, each after a norm and beside a residual connection."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self._heads = heads
        self.look_norm, self.think_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.ask, self.seen, self.take = nn.Linear(width, width), nn.Linear(width, 2 * width), nn.Linear(width, width)
        self.think = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))

    def look_at(self, patch_BPW: torch.Tensor) -> torch.Tensor:
        seen_2BEPS: torch.Tensor = self.seen(patch_BPW).unflatten(2, (2, self._heads, -1)).permute(2, 0, 3, 1, 4)
        return seen_2BEPS

    def forward(self, token_MLW: torch.Tensor, seen_2MEPS: torch.Tensor) -> torch.Tensor:
        asked_MELS = self.ask(self.look_norm(token_MLW)).unflatten(2, (self._heads, -1)).transpose(1, 2)
        found_MELS = F.scaled_dot_product_attention(asked_MELS, *seen_2MEPS)
        token_MLW = token_MLW + self.take(found_MELS.transpose(1, 2).flatten(2))
        thought_MLW: torch.Tensor = token_MLW + self.think(self.think_norm(token_MLW))
        return thought_MLW


def _vocabulary(encoder: DualEncoder) -> int:
    """How many token ids there are."""
    text_cfg = encoder.config["model_cfg"]["text_cfg"]
    if "hf_model_name" in text_cfg:
        return len(encoder.tokenizer.tokenizer)
    return int(text_cfg.get("vocab_size", 49_408))
