"""Training objectives: small functions of a batch's embeddings and relations."""

# B = batch, D = embedding

from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import BaseModel, Field


class ObjectiveConfig(BaseModel, frozen=True, extra="forbid", use_attribute_docstrings=True):
    """One term of the training loss."""

    loss: Literal["clip"] = "clip"
    """`clip`: symmetric InfoNCE between images and texts."""
    weight: float = Field(default=1.0, gt=0)
    """Factor of this term in the sum."""


def clip_loss(
    image_BD: torch.Tensor, text_BD: torch.Tensor, positives_BB: torch.Tensor, logit_scale: torch.Tensor
) -> torch.Tensor:
    """Symmetric InfoNCE with several positives: each anchor's target is spread evenly over its known positives.

    `positives_BB` (bool, image × text) has a true diagonal; `logit_scale` is the factor itself, not its logarithm.
    With the diagonal alone this is CLIP's loss (Radford et al. 2021); several targets follow SupCon's L_out
    (Khosla et al. 2020), so that a known positive is never an in-batch negative.
    """
    logits_BB = logit_scale * image_BD @ text_BD.T
    return (_multi_target_nce(logits_BB, positives_BB) + _multi_target_nce(logits_BB.T, positives_BB.T)) / 2


def _multi_target_nce(logits_BB: torch.Tensor, positives_BB: torch.Tensor) -> torch.Tensor:
    target_BB = positives_BB.to(logits_BB.dtype)
    target_BB = target_BB / target_BB.sum(dim=1, keepdim=True)
    return F.cross_entropy(logits_BB, target_BB)
