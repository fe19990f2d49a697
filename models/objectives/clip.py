"""CLIP's objective: symmetric InfoNCE between images and texts, with several positives."""

# B = batch, D = embedding, P = positive pairs

import torch

from pairloom.models.batches.targets import Targets
from pairloom.models.objectives.batch import EmbeddedBatch, Setting, Term
from pairloom.models.objectives.config import ClipConfig
from pairloom.models.objectives.log_sum_exp import log_sum_exps, weighted_products


def build(config: ClipConfig, setting: Setting) -> Term:  # noqa: ARG001  # nothing of its own to set up
    """A term without weights: the logit scale is the network's."""
    return ClipTerm()


class ClipTerm(Term):
    """`clip_loss` of a batch."""

    splits = True

    def forward(self, batch: EmbeddedBatch) -> torch.Tensor:
        """This rank's share of the loss."""
        sides, targets = batch.sides, batch.ready.targets
        return clip_loss(sides["image"], sides["text"], targets, batch.logit_scale, batch.own)


def clip_loss(
    image_BD: torch.Tensor,
    text_BD: torch.Tensor,
    targets: Targets,
    logit_scale: torch.Tensor,
    own: slice | None = None,
) -> torch.Tensor:
    """Symmetric InfoNCE with several positives: each anchor's target is spread over its known positives by weight.

    `logit_scale` is the factor itself, not its logarithm. With the diagonal alone this is CLIP's loss (Radford et al.
    2021); several targets follow SupCon's L_out (Khosla et al. 2020), so that a known positive is never an in-batch
    negative. Memory grows with the batch, not with its square.

    `own` are the rows that one of several ranks answers for: its share of the loss, which the ranks' sum makes whole.
    """
    if own is None:
        image_B, text_B = log_sum_exps(image_BD, text_BD, logit_scale)
    else:
        image_B, _ = log_sum_exps(image_BD[own], text_BD, logit_scale)
        text_B, _ = log_sum_exps(text_BD[own], image_BD, logit_scale)
        targets = targets.of_rows(own, len(image_BD))
    count = len(image_BD)
    weights_P = (targets.row_weights_P + targets.column_weights_P) / count
    positive = logit_scale * weighted_products(image_BD, text_BD, targets, weights_P)
    return ((image_B.sum() + text_B.sum()) / count - positive) / 2
