"""SigLIP's objective: every pair of an image and a text is told by a sigmoid whether it belongs together."""

# B = batch, R = rows, C = columns, D = embedding, P = positive pairs

import math

import torch
import torch.nn.functional as F
from torch import nn
from torch.autograd.function import FunctionCtx, once_differentiable

from pairloom.models.batches.targets import Targets
from pairloom.models.objectives.batch import EmbeddedBatch, Setting, Term
from pairloom.models.objectives.config import SiglipConfig
from pairloom.models.objectives.log_sum_exp import BLOCK, block_rows, logit_blocks, single, weighted_products

FIRST_SCALE, FIRST_BIAS = math.log(10), -10.0  # Zhai et al. 2023, section 3.2
MAX_SCALE = math.log(100)


def build(config: SiglipConfig, setting: Setting) -> Term:  # noqa: ARG001  # says nothing but its weight
    """A term with scale and bias of its own where the architecture has no bias."""
    return SiglipTerm(own=getattr(setting.encoder.network, "logit_bias", None) is None)


class SiglipTerm(Term):
    """`siglip_loss` of a batch."""

    splits = True
    kept = ("logit_",)

    def __init__(self, *, own: bool) -> None:
        super().__init__()
        if own:
            self.logit_scale = nn.Parameter(torch.tensor(FIRST_SCALE))
            self.logit_bias = nn.Parameter(torch.tensor(FIRST_BIAS))

    def forward(self, batch: EmbeddedBatch) -> torch.Tensor:
        """This rank's share of the loss."""
        scale, bias = batch.logit_scale, batch.logit_bias
        if bias is None:
            scale, bias = self.logit_scale.exp(), self.logit_bias
        return siglip_loss(batch.sides["image"], batch.sides["text"], batch.ready.targets, (scale, bias), batch.own)

    def after_step(self, batch: EmbeddedBatch) -> None:
        """Keeps the scale where the network's own is kept."""
        if batch.logit_bias is None:
            self.logit_scale.clamp_(0, MAX_SCALE)


def siglip_loss(
    image_BD: torch.Tensor,
    text_BD: torch.Tensor,
    targets: Targets,
    scale_and_bias: tuple[torch.Tensor, torch.Tensor],
    own: slice | None = None,
    *,
    block: int = BLOCK,
) -> torch.Tensor:
    """The sum over all pairs of -log σ(±(scale · ⟨image, text⟩ + bias)), plus for positives, divided by B (Zhai et al.
    2023).

    Every known positive is one, whatever its weight. Memory grows with the batch, not with its square, in the backward
    pass too. `own` are the rows that one of several ranks answers for: its share, which the ranks' sum makes whole.
    """
    count = len(image_BD)
    scale, bias = (each.reshape(()) for each in scale_and_bias)
    rows_BD = image_BD
    if own is not None:
        targets = targets.of_rows(own, count)
        rows_BD = image_BD[own]
    # As if all were negatives; then -log σ(x) = -log σ(-x) - x puts the positives right.
    negative = softplus_sum(rows_BD, text_BD, scale, bias, block=block)
    ones_P = torch.ones_like(targets.row_weights_P)
    positive = scale * weighted_products(image_BD, text_BD, targets, ones_P) + bias * len(ones_P)
    return (negative - positive) / count


def softplus_sum(
    row_RD: torch.Tensor, column_CD: torch.Tensor, scale: torch.Tensor, bias: torch.Tensor, *, block: int = BLOCK
) -> torch.Tensor:
    """The sum of log(1 + exp(scale · ⟨row, column⟩ + bias)) over all rows and columns, 0-d.

    Holds about `block` logits at a time, and computes them again for the gradients, of all four inputs.
    """
    row_RD, column_CD = single(row_RD), single(column_CD)
    rows = block_rows(len(column_CD), block)
    total: torch.Tensor = _SoftplusSum.apply(row_RD, column_CD, scale.to(row_RD.dtype), bias.to(row_RD.dtype), rows)
    return total


class _SoftplusSum(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: FunctionCtx,
        row_RD: torch.Tensor,
        column_CD: torch.Tensor,
        scale: torch.Tensor,
        bias: torch.Tensor,
        rows: int,
    ) -> torch.Tensor:
        total = row_RD.new_zeros((), dtype=torch.float64)
        for _, logits_QC, _ in logit_blocks(row_RD * scale, column_CD, rows):
            total += F.softplus(logits_QC.add_(bias)).sum()
        ctx.save_for_backward(row_RD, column_CD, scale, bias)
        ctx.rows = rows  # type: ignore[attr-defined]  # torch's way to keep what is no tensor
        return total.to(row_RD.dtype)

    @staticmethod
    @once_differentiable
    def backward(
        ctx: FunctionCtx, grad: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, None]:
        row_RD, column_CD, scale, bias = ctx.saved_tensors  # type: ignore[attr-defined]
        scaled_RD = row_RD * scale
        row_grad_RD, column_grad_CD = torch.empty_like(row_RD), torch.zeros_like(column_CD)
        bias_grad = row_RD.new_zeros((), dtype=torch.float64)
        for own, logits_QC, _ in logit_blocks(scaled_RD, column_CD, ctx.rows):  # type: ignore[attr-defined]
            share_QC = logits_QC.add_(bias).sigmoid_().mul_(grad)  # softplus has the sigmoid as its derivative
            bias_grad += share_QC.sum()
            torch.mm(share_QC, column_CD, out=row_grad_RD[own])
            column_grad_CD.addmm_(share_QC.T, scaled_RD[own])
        scale_grad = torch.dot(row_RD.flatten(), row_grad_RD.flatten())
        return row_grad_RD.mul_(scale), column_grad_CD, scale_grad, bias_grad.to(row_RD.dtype), None
