"""Given and mined pairs of items, and which of them lie within a batch."""

# N = items, M = pairs, B = batch

from dataclasses import dataclass, fields
from functools import cached_property
from typing import Literal, Self, get_args

import numpy as np
import numpy.typing as npt
import torch
from scipy import sparse  # type: ignore[import-untyped]  # SciPy publishes no type information

from pairloom.models.arrays import Indices

Relation = Literal["negative", "ordered", "target"]
RELATIONS: tuple[Relation, ...] = get_args(Relation)
"""Of the pairs' Parquet (docs/pairs.md); positives are part of `Relations`."""


def no_pairs(relation: str) -> ValueError:
    """The error of an objective whose pairs are missing."""
    way_out = " or ask for `mining.distances` (docs/mining.md)" if relation == "target" else ""
    return ValueError(
        f"objective: a loss learns from pairs of the relation {relation!r}, and there are none: "
        f"name a file of them under `pairs:` (docs/pairs.md){way_out}"
    )


@dataclass(frozen=True)
class BatchPairs:
    """M pairs of one relation within a batch, by the rows of their items."""

    first_M: torch.Tensor
    """Int64: the anchor's row."""
    second_M: torch.Tensor
    """Int64: the other's row."""
    target_M: torch.Tensor
    """Float32: the label of an ordered pair, or the distance of a target pair; NaN where there is none."""
    weight_M: torch.Tensor
    """Float32."""

    def to(self, device: torch.device) -> "BatchPairs":
        """The same on a device."""
        return BatchPairs(*(getattr(self, each.name).to(device) for each in fields(self)))


@dataclass(frozen=True)
class ItemPairs:
    """Pairs (anchor, other) of N items, of one relation, each once."""

    count: int
    """N."""
    firsts_M: Indices
    seconds_M: Indices
    targets_M: npt.NDArray[np.float32]
    weights_M: npt.NDArray[np.float32]

    @classmethod
    def once(
        cls,
        count: int,
        firsts_M: Indices,
        seconds_M: Indices,
        targets_M: npt.NDArray[np.float32],
        weights_M: npt.NDArray[np.float32],
    ) -> Self:
        """The pairs without repetitions: the first of equal ones counts."""
        _, first = np.unique(firsts_M * count + seconds_M, return_index=True)
        return cls(count, firsts_M[first], seconds_M[first], targets_M[first], weights_M[first])

    @cached_property
    def _numbers(self) -> sparse.csr_matrix:
        """1 + the number of each pair."""
        numbers = np.arange(1, len(self.firsts_M) + 1)
        return sparse.csr_matrix((numbers, (self.firsts_M, self.seconds_M)), shape=(self.count, self.count))

    @cached_property
    def partners(self) -> sparse.csr_matrix:
        """Who is paired with whom, either way round."""
        either = self._numbers + self._numbers.T
        return either.tocsr()

    def within(self, items_B: Indices) -> BatchPairs:
        """The pairs whose both items are among `items_B` (each there once), sorted by row."""
        found = self._numbers[items_B][:, items_B].tocoo()
        order = np.lexsort((found.col, found.row))
        number_M = found.data[order] - 1
        return BatchPairs(
            torch.from_numpy(found.row[order].astype(np.int64)),
            torch.from_numpy(found.col[order].astype(np.int64)),
            torch.from_numpy(self.targets_M[number_M]),
            torch.from_numpy(self.weights_M[number_M]),
        )
