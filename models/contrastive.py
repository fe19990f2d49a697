"""The sums of a contrastive loss over all pairs of a batch, without the matrix of all pairs."""

# R = rows, C = columns, D = embedding, P = positive pairs, Q = rows of a block, X = pairs left out

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from scipy import sparse  # type: ignore[import-untyped]  # scipy has no types
from torch.autograd.function import FunctionCtx, once_differentiable

BLOCK = 1 << 20
"""Logits held at a time. A batch of 1,024 is one block."""
MIN_ROWS = 64
"""Rows of a block at least, however many columns there are: thinner matrix products are slow."""


PairIndices = tuple[torch.Tensor, torch.Tensor]
"""Rows and columns of pairs, int64."""


@dataclass(frozen=True)
class Targets:
    """The P positive pairs of R images (rows) and C texts (columns), ordered by row, then column."""

    rows_P: torch.Tensor
    """Int64."""
    columns_P: torch.Tensor
    """Int64."""
    row_weights_P: torch.Tensor
    """Float32: the share of the pair among its row's positives; each row sums to 1."""
    column_weights_P: torch.Tensor
    """Float32: the share of the pair among its column's positives; each column sums to 1."""

    @classmethod
    def from_sparse(cls, weights_RC: sparse.csr_matrix, device: torch.device | str = "cpu") -> "Targets":
        """Targets of positive weights, nothing stored where a pair is no positive; any factor of a row cancels."""
        pairs = sparse.csr_matrix(weights_RC, copy=True)
        pairs.sum_duplicates()
        pairs.eliminate_zeros()
        for axis, name in ((1, "row"), (0, "column")):
            empty = np.flatnonzero(pairs.getnnz(axis=axis) == 0)
            if len(empty):
                raise ValueError(f"{name} {empty[0]} of the targets has no positive; give each at least one")
        found = pairs.tocoo()
        row_P, column_P, weight_P = found.row, found.col, found.data.astype(np.float64)
        shares = [weight_P / np.bincount(index_P, weight_P)[index_P] for index_P in (row_P, column_P)]
        indices = [torch.from_numpy(index_P.astype(np.int64)).to(device) for index_P in (row_P, column_P)]
        return cls(*indices, *(torch.from_numpy(share_P.astype(np.float32)).to(device) for share_P in shares))

    @property
    def transposed(self) -> "Targets":
        """The same pairs seen from the columns: rows are what were columns, in the order that the pairs had."""
        return Targets(self.columns_P, self.rows_P, self.column_weights_P, self.row_weights_P)

    def of_rows(self, rows: slice, count: int) -> "Targets":
        """The pairs of some of `count` rows, with the weights that they have among all."""
        first, last, _ = rows.indices(count)
        kept_P = (self.rows_P >= first) & (self.rows_P < last)
        columns = (self.rows_P, self.columns_P, self.row_weights_P, self.column_weights_P)
        return Targets(*(each_P[kept_P] for each_P in columns))


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
