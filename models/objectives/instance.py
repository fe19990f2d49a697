"""Instance discrimination: every item is a class of its own, told from all others by its image alone."""

# N = items, B = batch, b = this rank's share of it, D = embedding, M = sampled negatives

import math

import torch
import torch.nn.functional as F
from torch import nn

from pairloom.models.objectives.batch import EmbeddedBatch, Setting, Term
from pairloom.models.objectives.config import InstanceConfig


def build(config: InstanceConfig, setting: Setting) -> Term:
    """A class an item, at random directions."""
    by_weights = config.classes == "weights" or (config.classes == "auto" and setting.item_count <= config.max_weights)
    return ClassesTerm(config, setting) if by_weights else MemoryTerm(config, setting)


class ClassesTerm(Term):
    """A full softmax over the items (Dosovitskiy et al. 2014)."""

    splits = True

    def __init__(self, config: InstanceConfig, setting: Setting) -> None:
        super().__init__()
        self.class_ND = nn.Parameter(F.normalize(torch.randn(setting.item_count, setting.dimension), dim=1))
        self._scale = 1 / config.temperature

    def forward(self, batch: EmbeddedBatch) -> torch.Tensor:
        """This rank's share of the loss."""
        own = batch.own_rows
        class_ND = F.normalize(self.class_ND, dim=1)
        loss_b = full_softmax_losses(batch.sides["image"][own], class_ND, batch.ready.items_B[own], self._scale)
        return loss_b.sum() / batch.ready.count


class MemoryTerm(Term):
    """A sampled softmax over a memory of all items' embeddings (Wu et al. 2018)."""

    splits = True
    memory_ND: torch.Tensor

    def __init__(self, config: InstanceConfig, setting: Setting) -> None:
        super().__init__()
        memory_ND = F.normalize(torch.randn(setting.item_count, setting.dimension), dim=1)
        self.register_buffer("memory_ND", memory_ND)
        self._scale, self._momentum = 1 / config.temperature, config.memory_momentum
        self._seed, self._negatives = setting.seed, config.negatives

    def forward(self, batch: EmbeddedBatch) -> torch.Tensor:
        """This rank's share of the loss."""
        own, memory_ND = batch.own_rows, self.memory_ND
        generator = torch.Generator().manual_seed((self._seed * 1_000_003 + batch.ready.step) % 2**63)
        drawn_M = torch.randint(len(memory_ND), (self._negatives,), generator=generator).to(memory_ND.device)
        loss_b = sampled_softmax_losses(
            batch.sides["image"][own], memory_ND, batch.ready.items_B[own], drawn_M, self._scale
        )
        return loss_b.sum() / batch.ready.count

    def after_step(self, batch: EmbeddedBatch) -> None:
        """Every rank remembers the whole batch."""
        items_B = batch.ready.items_B
        mixed_BD = self._momentum * self.memory_ND[items_B] + (1 - self._momentum) * batch.sides["image"].detach()
        self.memory_ND[items_B] = F.normalize(mixed_BD, dim=1)


def full_softmax_losses(
    image_bD: torch.Tensor, class_ND: torch.Tensor, items_b: torch.Tensor, scale: float
) -> torch.Tensor:
    """(b,): cross-entropy of each image's own item among all N, by cosine similarity times `scale`."""
    return F.cross_entropy(scale * image_bD @ class_ND.T, items_b, reduction="none")


def sampled_softmax_losses(
    image_bD: torch.Tensor, class_ND: torch.Tensor, items_b: torch.Tensor, drawn_M: torch.Tensor, scale: float
) -> torch.Tensor:
    """(b,): the same with the other N − 1 items estimated from a sample drawn evenly, which the whole batch shares.

    Each of the m drawn ones that isn't the image's own stands for (N − 1) / m items (Jean et al. 2015). With every item
    drawn once it is the full softmax.
    """
    own_b = scale * (image_bD * class_ND[items_b]).sum(dim=1)
    drawn_bM = drawn_M == items_b[:, None]
    others_bM = (scale * image_bD @ class_ND[drawn_M].T).masked_fill(drawn_bM, -torch.inf)
    counts_b = (len(drawn_M) - drawn_bM.sum(dim=1)).clamp_min(1)
    others_b = others_bM.logsumexp(dim=1) + math.log(len(class_ND) - 1) - counts_b.log()
    return torch.logaddexp(own_b, others_b) - own_b
