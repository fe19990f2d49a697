"""The two-input network: an image and a text in, one score out. A text's tokens look at the image's patches."""

# B = images, U = texts, P = patches, L = tokens, F = width of a tower, W = width, M = pairs, E = heads, S = W / E

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from models.tokens import image_tokens, text_tokens
from models.towers import DualEncoder


@dataclass(frozen=True)
class Images:
    """Images, read once for all pairs that they are in."""

    key_BEPS: torch.Tensor
    value_BEPS: torch.Tensor


@dataclass(frozen=True)
class Texts:
    """Texts, read once for all pairs that they are in."""

    question_UELS: torch.Tensor
    meaning_ULW: torch.Tensor
    share_UL: torch.Tensor
    """Of each token in its text: equal ones, 0 for padding."""


class CrossEncoder(nn.Module):
    """Scores pairs of images and texts from the towers' tokens.

    All that concerns one side alone is computed once for it. Of every pair, each token of the text attends to the
    patches of the image (Vaswani et al. 2017); what it finds, added to what it means, goes through a nonlinearity; a
    perceptron makes the score of the mean over the tokens.
    """

    def __init__(self, encoder: DualEncoder, width: int, heads: int) -> None:
        """Reads the tokens of `encoder`, which is no part of this module: it gets no gradient."""
        super().__init__()
        self._encoder, self._heads = (encoder,), heads  # a tuple, so that its weights aren't taken for this module's
        height, breadth = (1, 3, *_size(encoder)), (1, encoder.context_length)
        image_width = image_tokens(encoder, torch.zeros(height)).shape[-1]
        text_width = text_tokens(encoder, torch.ones(breadth, dtype=torch.int64))[0].shape[-1]
        self.patches = nn.Sequential(nn.LayerNorm(image_width), nn.Linear(image_width, width), nn.LayerNorm(width))
        self.words = nn.Sequential(nn.LayerNorm(text_width), nn.Linear(text_width, width), nn.LayerNorm(width))
        self.key, self.value = nn.Linear(width, width), nn.Linear(width, width)
        self.question, self.meaning = nn.Linear(width, width), nn.Linear(width, width)
        self.head = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width), nn.GELU(), nn.Linear(width, 1))

    def read_images(self, image_BCHW: torch.Tensor) -> Images:
        """Normalised pixels."""
        patch_BPW = self.patches(image_tokens(self._encoder[0], image_BCHW))
        return Images(self._by_head(self.key(patch_BPW)), self._by_head(self.value(patch_BPW)))

    def read_texts(self, token_UL: torch.Tensor) -> Texts:
        """Token ids, which may be trimmed."""
        token_ULF, real_UL = text_tokens(self._encoder[0], token_UL)
        word_ULW = self.words(token_ULF)
        share_UL = real_UL / real_UL.sum(dim=1, keepdim=True)
        return Texts(self._by_head(self.question(word_ULW)), self.meaning(word_ULW), share_UL)

    def forward(self, images: Images, texts: Texts, image_M: torch.Tensor, text_M: torch.Tensor) -> torch.Tensor:
        """The score (M,) of each pair, given by the rows of its image and its text."""
        seen_MELS = F.scaled_dot_product_attention(
            texts.question_UELS[text_M], images.key_BEPS[image_M], images.value_BEPS[image_M]
        )
        thought_MLW = F.gelu(seen_MELS.transpose(1, 2).flatten(2) + texts.meaning_ULW[text_M])
        score_M: torch.Tensor = self.head(torch.einsum("mlw,ml->mw", thought_MLW, texts.share_UL[text_M])).squeeze(1)
        return score_M

    def _by_head(self, token: torch.Tensor) -> torch.Tensor:
        return token.view(*token.shape[:2], self._heads, -1).transpose(1, 2)


def _size(encoder: DualEncoder) -> tuple[int, int]:
    """Height and width that the image tower takes."""
    size = encoder.preprocess_cfg["size"]
    return (size, size) if isinstance(size, int) else (size[0], size[1])
