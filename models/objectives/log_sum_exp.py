"""The sums of a contrastive loss over all pairs of a batch, without the matrix of all pairs."""

# R = rows, C = columns, D = embedding, P = positive pairs, Q = rows of a block, X = pairs left out

from collections.abc import Iterator

import torch
from torch.autograd.function import FunctionCtx, once_differentiable

from pairloom.models.batches.targets import PairIndices, Targets

BLOCK = 1 << 20
"""Logits held at a time. A batch of 1,024 is one block."""
MIN_ROWS = 64
"""Rows of a block at least, however many columns there are: thinner matrix products are slow."""


def log_sum_exps(
    row_RD: torch.Tensor,
    column_CD: torch.Tensor,
    scale: torch.Tensor,
    *,
    left_out: PairIndices | None = None,
    block: int = BLOCK,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-sum-exps (R,) along each row and (C,) along each column of the logits scale · row_RD · column_CDᵀ.

    Pairs `left_out` (an item and itself, say) count nothing; where all of a row's or a column's are, its log-sum-exp is
    a number close to the lowest that there is.

    Holds `block` logits at a time (twice); where that isn't all, they are computed again for the gradients.
    `row_RD`, `column_CD` and the 0-d `scale` get gradients. The log-sum-exp over several row sets' column results is
    that of their union. Half precision is computed in float32. The idea is that of FlashAttention (Dao et al. 2022)
    and Inf-CL (Cheng et al. 2024).
    """
    row_RD, column_CD = single(row_RD), single(column_CD)
    rows = block_rows(len(column_CD), block)
    row_R, column_C = _LogSumExps.apply(row_RD, column_CD, scale.to(row_RD.dtype), rows, left_out)
    return row_R, column_C


def weighted_products(
    row_RD: torch.Tensor, column_CD: torch.Tensor, targets: Targets, weights_P: torch.Tensor
) -> torch.Tensor:
    """The sum of weight · ⟨row, column⟩ over the pairs of `targets`, with O((R + C) · D + P) memory."""
    row_RD, column_CD = single(row_RD), single(column_CD)
    index_2P = torch.stack([targets.rows_P, targets.columns_P])
    size = (len(row_RD), len(column_CD))
    with torch.autocast(row_RD.device.type, enabled=False):
        weights_RC = torch.sparse_coo_tensor(
            index_2P, weights_P.to(row_RD.dtype), size, is_coalesced=True, check_invariants=False
        )
        mixed_RD: torch.Tensor = torch.sparse.mm(weights_RC, column_CD)
        return (row_RD * mixed_RD).sum()


def single(tensor: torch.Tensor) -> torch.Tensor:
    """The tensor in at least float32."""
    return tensor.float() if tensor.dtype in (torch.bfloat16, torch.float16) else tensor


class _LogSumExps(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: FunctionCtx,
        row_RD: torch.Tensor,
        column_CD: torch.Tensor,
        scale: torch.Tensor,
        rows: int,
        left_out: PairIndices | None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        row_R = row_RD.new_empty(len(row_RD))
        column_C = row_RD.new_full((len(column_CD),), -torch.inf)
        for own, logits_QC, scratch_QC in logit_blocks(row_RD * scale, column_CD, rows, left_out):
            row_R[own] = _log_sum_exp(logits_QC, 1, scratch_QC)
            column_C = torch.logaddexp(column_C, _log_sum_exp(logits_QC, 0, scratch_QC))
        kept_RC = logits_QC if rows >= len(row_RD) else None  # one block is kept: no second product
        ctx.save_for_backward(row_RD, column_CD, scale, row_R, column_C, kept_RC)  # type: ignore[arg-type]  # None is allowed, torch's type isn't complete
        ctx.rows, ctx.left_out = rows, left_out  # type: ignore[attr-defined]  # torch's way to keep what is no tensor
        return row_R, column_C

    @staticmethod
    @once_differentiable
    def backward(
        ctx: FunctionCtx, grad_R: torch.Tensor, grad_C: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, None, None]:
        row_RD, column_CD, scale, row_R, column_C, kept_RC = ctx.saved_tensors  # type: ignore[attr-defined]
        scaled_RD = row_RD * scale
        row_grad_RD, column_grad_CD = torch.empty_like(row_RD), torch.zeros_like(column_CD)
        if kept_RC is None:
            blocks = logit_blocks(scaled_RD, column_CD, ctx.rows, ctx.left_out)  # type: ignore[attr-defined]
        else:
            blocks = iter([(slice(None), kept_RC.clone(), torch.empty_like(kept_RC))])
        for own, logits_QC, scratch_QC in blocks:
            # Each logit's gradient is its softmax along the row and along the column, weighted by theirs.
            torch.sub(logits_QC, column_C, out=scratch_QC).exp_().mul_(grad_C)
            logits_QC.sub_(row_R[own, None]).exp_()
            scratch_QC.addcmul_(logits_QC, grad_R[own, None])
            torch.mm(scratch_QC, column_CD, out=row_grad_RD[own])
            column_grad_CD.addmm_(scratch_QC.T, scaled_RD[own])
        scale_grad = torch.dot(row_RD.flatten(), row_grad_RD.flatten())
        return row_grad_RD.mul_(scale), column_grad_CD, scale_grad, None, None


def block_rows(columns: int, block: int = BLOCK) -> int:
    """Rows of a block of about `block` logits."""
    return max(block // max(columns, 1), min(MIN_ROWS, block))


def logit_blocks(
    scaled_RD: torch.Tensor, column_CD: torch.Tensor, rows: int, left_out: PairIndices | None = None
) -> Iterator[tuple[slice, torch.Tensor, torch.Tensor]]:
    """Each block of rows with its logits and a scratch of their shape; both are overwritten by the next block.

    The logits of pairs `left_out` are so low that their exponential is 0.
    """
    rows = min(rows, len(scaled_RD))
    logits_QC, scratch_QC = scaled_RD.new_empty(2, rows, len(column_CD))
    for start in range(0, len(scaled_RD), rows):
        own = slice(start, min(start + rows, len(scaled_RD)))
        count = own.stop - start
        torch.mm(scaled_RD[own], column_CD.T, out=logits_QC[:count])  # autocast leaves products into `out` alone
        if left_out is not None:
            row_X, column_X = left_out
            here_X = (row_X >= start) & (row_X < own.stop)
            # Not minus infinity: the difference of two of those is no number.
            logits_QC[row_X[here_X] - start, column_X[here_X]] = torch.finfo(logits_QC.dtype).min / 4
        yield own, logits_QC[:count], scratch_QC[:count]


def _log_sum_exp(logits_QC: torch.Tensor, dim: int, scratch_QC: torch.Tensor) -> torch.Tensor:
    """torch.logsumexp of finite logits, without an allocation of their size."""
    top = logits_QC.amax(dim, keepdim=True)
    return torch.sub(logits_QC, top, out=scratch_QC).exp_().sum(dim).log_().add_(top.squeeze(dim))
