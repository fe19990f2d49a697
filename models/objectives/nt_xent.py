"""Contrastive learning within one side: SimCLR's NT-Xent, and with known positives supervised contrastive learning."""

# A = anchors, P = positive pairs

import torch

from pairloom.models.batches.targets import Targets
from pairloom.models.objectives.batch import EmbeddedBatch, Setting, Term
from pairloom.models.objectives.comparison import Comparison, across_towers, comparisons, logit_scale
from pairloom.models.objectives.config import NtXentConfig
from pairloom.models.objectives.log_sum_exp import log_sum_exps, weighted_products


def build(config: NtXentConfig, setting: Setting) -> Term:
    """A term without weights."""
    if config.across_towers and not setting.encoder.second:
        raise ValueError("objective: across_towers: true needs two image towers; set model.second_image_tower")
    return NtXentTerm(config)


class NtXentTerm(Term):
    """`nt_xent_loss` of a batch."""

    def __init__(self, config: NtXentConfig) -> None:
        super().__init__()
        self._config = config

    def forward(self, batch: EmbeddedBatch) -> torch.Tensor:
        """The whole loss."""
        scale = logit_scale(batch, self._config.temperature)
        if self._config.across_towers:
            return across_towers_loss(across_towers(batch), scale)
        return torch.stack([nt_xent_loss(each, scale) for each in comparisons(self._config, batch)]).mean()


def nt_xent_loss(comparison: Comparison, scale: torch.Tensor) -> torch.Tensor:
    """The mean over anchors of the cross-entropy between the softmax over all others, itself left out, and its
    positives by their share: Chen et al. 2020 with one positive, L_out of Khosla et al. 2020 with several.

    Logits are scale · cosine. Anchors without a positive aren't counted. Memory grows with the batch and its positive
    pairs, not with the batch's square.
    """
    anchor_AD, other_CD = comparison.anchor_AD, comparison.other_CD
    all_A, _ = log_sum_exps(anchor_AD, other_CD, scale, left_out=comparison.self_pairs)
    shares_P = comparison.shares_P
    targets = Targets(comparison.rows_P, comparison.columns_P, shares_P, shares_P)
    positive = scale * weighted_products(anchor_AD, other_CD, targets, shares_P)
    counted_A = torch.zeros_like(all_A)
    counted_A[comparison.rows_P] = 1
    return (all_A @ counted_A - positive) / max(comparison.anchors_with_positives, 1)


def across_towers_loss(found: tuple[Comparison, Comparison], scale: torch.Tensor) -> torch.Tensor:
    """The mean over the anchors of both sides: each image among those of the other image tower alone."""
    # Where no image has a positive on the other side there is nothing to learn, and perhaps nobody to compare with.
    losses = [nt_xent_loss(each, scale) * each.anchors_with_positives for each in found if len(each.rows_P)]
    anchors = sum(each.anchors_with_positives for each in found)
    return torch.stack(losses).sum() / anchors if losses else sum(each.anchor_AD.sum() for each in found) * scale * 0
