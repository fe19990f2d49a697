"""InfoNCE between images: those of known positives, of one image tower or across two."""

# B = batch, D = embedding, P = positive pairs

from typing import Literal

import torch

from pairloom.models.batches.targets import Targets
from pairloom.models.objectives.batch import EmbeddedBatch, Objective, Setting, Term, Want


class MatesConfig(Objective):
    """InfoNCE between images, with a learned temperature: each is to find its known positives among the others."""

    loss: Literal["image_image"] = "image_image"
    across_towers: bool = False
    """Whether images are compared with those of the other image tower alone; needs `model.second_image_tower`."""

    @property
    def wants(self) -> frozenset[Want]:
        """Images, and which items are positives of one another."""
        return frozenset({"image", "item_targets"})

    @property
    def partners(self) -> frozenset[str]:
        """Positives must meet in a batch."""
        return frozenset({"positive"})

    def build(self, setting: Setting) -> Term:
        """A term without weights: the logit scale is the network's."""
        if self.across_towers and not setting.encoder.second:
            raise ValueError("objective: across_towers: true needs two image towers; set model.second_image_tower")
        return MatesTerm(across_towers=self.across_towers)


class MatesTerm(Term):
    """`mates_loss` of a batch."""

    def __init__(self, *, across_towers: bool) -> None:
        super().__init__()
        self.across_towers = across_towers

    def forward(self, batch: EmbeddedBatch) -> torch.Tensor:
        """The loss of the whole batch."""
        targets, sides = batch.ready.item_targets, batch.ready.second_B
        assert targets is not None, "the batch source was asked for item targets"
        return mates_loss(batch.sides["image"], targets, batch.logit_scale, sides if self.across_towers else None)


def mates_loss(
    image_BD: torch.Tensor, targets: Targets, logit_scale: torch.Tensor, side_B: torch.Tensor | None = None
) -> torch.Tensor:
    """InfoNCE of each image among all others, or among those of the other side where `side_B` (bool) is given.

    The target of an anchor is spread over its known positives there by weight (Khosla et al. 2020, L_out); an image
    without any is no anchor, but a candidate. `logit_scale` is the factor itself, not its logarithm.
    """
    count = len(image_BD)
    compared_BB = ~torch.eye(count, dtype=torch.bool, device=image_BD.device)
    if side_B is not None:
        compared_BB = side_B[:, None] != side_B[None, :]
    kept_P = compared_BB[targets.rows_P, targets.columns_P]
    rows_P, columns_P, weights_P = (each[kept_P] for each in (targets.rows_P, targets.columns_P, targets.row_weights_P))
    total_B = image_BD.new_zeros(count).index_add(0, rows_P, weights_P)
    anchors_B = total_B > 0
    if not anchors_B.any():
        return image_BD.sum() * 0
    logits_BB = (logit_scale * image_BD @ image_BD.T).masked_fill(~compared_BB, -torch.inf)
    share_P = weights_P / total_B[rows_P]
    positive = (share_P * logits_BB[rows_P, columns_P]).sum()
    return (logits_BB[anchors_B].logsumexp(dim=1).sum() - positive) / anchors_B.sum()
