"""Lists of integers of different lengths, laid end to end, so that many of them are drawn from at once."""

# N = lists, V = values of all lists, M = some of the lists

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Self

import numpy as np

from pairloom.models.arrays import Indices


@dataclass(frozen=True)
class Ragged:
    """N lists; `lists[n]` is one of them, a view of the values."""

    values_V: Indices
    bounds: Indices
    """Where each list starts among the values, and where the last one ends: N + 1."""

    @classmethod
    def of(cls, lists: Iterable[Indices]) -> Self:
        """The lists, copied."""
        held = list(lists)
        return cls.cut(np.concatenate([*held, np.array([], np.int64)]), np.array([len(own) for own in held], np.int64))

    @classmethod
    def cut(cls, values_V: Indices, counts: Indices) -> Self:
        """The values cut into lists of so many each."""
        return cls(values_V, np.concatenate([[0], np.cumsum(counts, dtype=np.int64)]))

    def __len__(self) -> int:
        return len(self.bounds) - 1

    def __getitem__(self, row: int) -> Indices:
        return self.values_V[self.starts[row] : self.bounds[1:][row]]

    def __iter__(self) -> Iterator[Indices]:
        return (self.values_V[start:end] for start, end in zip(self.bounds[:-1], self.bounds[1:], strict=True))

    @property
    def starts(self) -> Indices:
        """Where each list starts among the values."""
        return self.bounds[:-1]

    @property
    def counts(self) -> Indices:
        """How many values each list has."""
        return np.diff(self.bounds)

    @property
    def owners(self) -> Indices:
        """Which list each value is of."""
        return np.repeat(np.arange(len(self)), self.counts)

    def counts_of(self, rows_M: Indices) -> Indices:
        """How many values some of the lists have; the others are not looked at."""
        counts_M: Indices = self.bounds[rows_M + 1] - self.bounds[rows_M]
        return counts_M

    def take(self, rows_M: Indices) -> Self:
        """Some of the lists, in that order."""
        counts_M = self.counts_of(rows_M)
        taken = self.cut(self.values_V, counts_M)
        places = np.arange(taken.bounds[-1]) + np.repeat(self.bounds[rows_M] - taken.starts, counts_M)
        return type(self)(self.values_V[places], taken.bounds)
