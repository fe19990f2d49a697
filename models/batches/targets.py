"""Which pairs of a batch are positives, as sparse as they are."""

# R = rows, C = columns, P = positive pairs

from dataclasses import dataclass

import numpy as np
import torch
from scipy import sparse  # type: ignore[import-untyped]  # scipy has no types

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
