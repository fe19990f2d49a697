"""Contrastive learning within one side: SimCLR's NT-Xent, and with known positives supervised contrastive learning."""

# A = anchors, P = positive pairs

from typing import Literal

import torch
from pydantic import Field

from pairloom.models.batches.targets import Targets
from pairloom.models.objectives.batch import EmbeddedBatch, Setting, Term
from pairloom.models.objectives.comparison import Between, Comparing, Comparison, Positives, comparisons, logit_scale
from pairloom.models.objectives.log_sum_exp import log_sum_exps, weighted_products


class NtXentConfig(Comparing):
    """SimCLR's NT-Xent (Chen et al. 2020): the two views of an item find one another among all views of a batch. No
    label is read."""

    loss: Literal["nt_xent"] = "nt_xent"
    between: Between = "image_image"
    """What is compared: images, or texts, with one another through their one tower, or images with texts."""
    positives: Positives = "views"
    """The two views of an item: its image under two random changes, two of its texts, or image and text; `related`
    and `related_views` are those of sup_con."""
    temperature: float | None = Field(default=0.1, gt=0)
    """What cosines are divided by; none for the network's learned logit scale."""

    def build(self, setting: Setting) -> Term:  # noqa: ARG002  # nothing of its own to set up
        """A term without weights."""
        return NtXentTerm(self)


class SupConConfig(NtXentConfig):
    """Supervised contrastive learning (Khosla et al. 2020): all views of all items that are known positives find one
    another."""

    loss: Literal["sup_con"] = "sup_con"  # type: ignore[assignment]  # another tag of the same fields
    positives: Positives = "related_views"
    """Every view of an item and of each `related` one (of a group, of equal text or pixels, or given as a pair); or
    without views: `related`; `views` alone make it nt_xent."""


class NtXentTerm(Term):
    """`nt_xent_loss` of a batch."""

    def __init__(self, config: NtXentConfig) -> None:
        super().__init__()
        self._config = config

    def forward(self, batch: EmbeddedBatch) -> torch.Tensor:
        """The whole loss."""
        scale = logit_scale(batch, self._config.temperature)
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
