"""How alike words are by what they are used with, where vectors of words say that."""

# W = words, D = dimensions, A, B = some of the words

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import linalg  # type: ignore[import-untyped]  # SciPy publishes no type information

from pairloom.models.arrays import Indices, Values

NEARNESS = 4.0
"""Two words are alike by the exponential of this times their cosine less one: near ones count, others hardly do."""
FREQUENT = 50_000
"""Words that the directions are evened out by, the first ones."""
EVENED = 0.25
"""Power of a direction's variance that it is divided by: a half would make all alike."""


@dataclass(frozen=True)
class WordMeanings:
    """Words and the directions, of length 1, that they point in."""

    row: Mapping[str, int]
    unit_WD: Values

    @classmethod
    def of(cls, words: Sequence[str], vector_WD: Values) -> "WordMeanings":
        """From vectors of words, most frequent first; centred, and no direction outweighing all others (Mu and
        Viswanath 2018 take the largest away)."""
        frequent_WD = np.asarray(vector_WD[:FREQUENT], np.float64)
        mean_D = frequent_WD.mean(axis=0)
        variance_D, axes_DD = linalg.eigh(np.atleast_2d(np.cov((frequent_WD - mean_D).T)))
        least = 1e-9 * max(float(variance_D[-1]), np.finfo(np.float64).tiny)
        even_DD = (axes_DD * np.maximum(variance_D, least) ** -EVENED) @ axes_DD.T
        turned_WD = (vector_WD - mean_D) @ even_DD
        length_W1 = np.linalg.norm(turned_WD, axis=1, keepdims=True)
        unit_WD = turned_WD / np.where(length_W1 > 0, length_W1, 1)
        return cls({word: number for number, word in enumerate(words)}, unit_WD.astype(np.float32))

    def likeness(self, row_A: Indices, row_B: Indices) -> Values:
        """(A, B): from nothing to 1."""
        cosine_AB = self.unit_WD[row_A] @ self.unit_WD[row_B].T
        found_AB: Values = np.exp(NEARNESS * (cosine_AB.astype(np.float64) - 1))
        return found_AB
