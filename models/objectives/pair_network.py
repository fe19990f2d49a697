"""The two-input network: an image and a text in, one score out. A text's tokens look at the image's patches."""

# B = images, U = texts, P = patches, L = tokens, F = width of a tower, W = width, M = pairs, E = heads, S = W / E

import copy
import math
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import nn

from pairloom.models.towers.dual_encoder import DualEncoder
from pairloom.models.towers.states import image_states, text_states


@dataclass(frozen=True)
class Images:
    """Images, read once for all pairs that they are in."""

    key_BEPS: torch.Tensor
    value_BEPS: torch.Tensor
    whole_BW: torch.Tensor
    embedding_BD: torch.Tensor


@dataclass(frozen=True)
class Texts:
    """Texts, read once for all pairs that they are in."""

    question_UELS: torch.Tensor
    meaning_ULW: torch.Tensor
    whole_UW: torch.Tensor
    embedding_UD: torch.Tensor
    share_UL: torch.Tensor
    """Of each token in its text: equal ones, 0 for padding."""


class CrossEncoder(nn.Module):
    """Scores pairs of images and texts from the towers' tokens.

    All that concerns one side alone is computed once for it. Of every pair, each token of the text attends to the
    patches of the image (Vaswani et al. 2017); what it finds, added to what it means, goes through a nonlinearity. To
    the mean over the tokens comes the product of what is read off the two embeddings: what the dual encoder knows,
    each dimension weighed anew. A perceptron makes the score of the sum. With towers of its own, their logit is added.
    """

    def __init__(self, encoder: DualEncoder, width: int, heads: int, *, own_towers: bool) -> None:
        """Reads the tokens of `encoder`, which is no part of this module: it gets no gradient. `own_towers` reads those
        of a copy of it instead, which is trained.
        """
        super().__init__()
        self.towers: nn.Module | None = None
        if own_towers:
            self.towers = copy.deepcopy(encoder.network)
            encoder = replace(encoder, network=self.towers)
        self._encoder, self._heads = (encoder,), heads  # a tuple, so that its weights aren't taken for this module's
        height, breadth = (1, 3, *_size(encoder)), (1, encoder.context_length)
        with torch.no_grad():
            image_width = image_states(encoder, torch.zeros(height)).token_BPF.shape[-1]
            text_width = text_states(encoder, torch.ones(breadth, dtype=torch.int64)).token_BPF.shape[-1]
        dimension = int(encoder.config["model_cfg"]["embed_dim"])
        self.patches = nn.Sequential(nn.LayerNorm(image_width), nn.Linear(image_width, width), nn.LayerNorm(width))
        self.words = nn.Sequential(nn.LayerNorm(text_width), nn.Linear(text_width, width), nn.LayerNorm(width))
        self.key, self.value = nn.Linear(width, width), nn.Linear(width, width)
        self.question, self.meaning = nn.Linear(width, width), nn.Linear(width, width)
        self.whole_image, self.whole_text = nn.Linear(dimension, width), nn.Linear(dimension, width)
        self.head = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width), nn.GELU(), nn.Linear(width, 1))

    def read_images(self, image_BCHW: torch.Tensor) -> Images:
        """Normalised pixels."""
        with self._gradients():
            read = image_states(self._encoder[0], image_BCHW)
        patch_BPW = self.patches(read.token_BPF)
        whole_BW = self.whole_image(_of_unit_variance(read.embedding_BD))
        key_BEPS, value_BEPS = self._by_head(self.key(patch_BPW)), self._by_head(self.value(patch_BPW))
        return Images(key_BEPS, value_BEPS, whole_BW, read.embedding_BD)

    def read_texts(self, token_UL: torch.Tensor) -> Texts:
        """Token ids, which may be trimmed."""
        with self._gradients():
            read = text_states(self._encoder[0], token_UL)
        word_ULW = self.words(read.token_BPF)
        whole_UW = self.whole_text(_of_unit_variance(read.embedding_BD))
        share_UL = read.real_BP / read.real_BP.sum(dim=1, keepdim=True)
        question_UELS = self._by_head(self.question(word_ULW))
        return Texts(question_UELS, self.meaning(word_ULW), whole_UW, read.embedding_BD, share_UL)

    def forward(self, images: Images, texts: Texts, image_M: torch.Tensor, text_M: torch.Tensor) -> torch.Tensor:
        """The score (M,) of each pair, given by the rows of its image and its text."""
        seen_MELS = F.scaled_dot_product_attention(
            texts.question_UELS[text_M], images.key_BEPS[image_M], images.value_BEPS[image_M]
        )
        thought_MLW = F.gelu(seen_MELS.transpose(1, 2).flatten(2) + texts.meaning_ULW[text_M])
        detail_MW = torch.einsum("mlw,ml->mw", thought_MLW, texts.share_UL[text_M])
        score_M: torch.Tensor = self.head(detail_MW + images.whole_BW[image_M] * texts.whole_UW[text_M]).squeeze(1)
        if self.towers is None:
            return score_M
        return score_M + self.logit_scale * (images.embedding_BD[image_M] * texts.embedding_UD[text_M]).sum(dim=1)

    @property
    def logit_scale(self) -> torch.Tensor:
        """What the towers' cosines are multiplied by, at most 100 as in CLIP."""
        logarithm: torch.Tensor = self._encoder[0].network.logit_scale  # type: ignore[assignment]
        return logarithm.exp().clamp(max=100)

    def _gradients(self) -> torch.set_grad_enabled:
        """Gradients only for towers of its own."""
        return torch.set_grad_enabled(self.towers is not None and torch.is_grad_enabled())

    def _by_head(self, token: torch.Tensor) -> torch.Tensor:
        return token.view(*token.shape[:2], self._heads, -1).transpose(1, 2)


def _of_unit_variance(embedding_BD: torch.Tensor) -> torch.Tensor:
    return embedding_BD * math.sqrt(embedding_BD.shape[1])


def _size(encoder: DualEncoder) -> tuple[int, int]:
    """Height and width that the image tower takes."""
    size = encoder.preprocess_cfg["size"]
    return (size, size) if isinstance(size, int) else (size[0], size[1])
