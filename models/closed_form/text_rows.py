"""Texts as rows that are compared by inner products: of their words, of pieces of these, and of what the words mean."""

# T = texts, V = places, W = words with a meaning, A, B = words of some texts

from dataclasses import dataclass

import numpy as np
from scipy import sparse  # type: ignore[import-untyped]  # SciPy publishes no type information

from pairloom.models.arrays import Indices, Values
from pairloom.models.closed_form.word_meanings import WordMeanings

AT_ONCE = 2048
"""Texts that are compared with others in one go."""


@dataclass(frozen=True)
class Meant:
    """How much of each word with a meaning texts hold."""

    meanings: WordMeanings
    word_TW: sparse.csr_matrix

    def products(self, other: "Meant") -> Values:
        """(T, other's T): the likeness of each two of their words, as often as they are there."""
        row_A, row_B = _used(self.word_TW), _used(other.word_TW)
        likeness_AB = self.meanings.likeness(row_A, row_B)
        found: Values = self.word_TW[:, row_A] @ (other.word_TW[:, row_B] @ likeness_AB.T).T
        return found

    def squares(self) -> Values:
        """(T,): each one's product with itself."""
        row_A = _used(self.word_TW)
        word_TA = self.word_TW[:, row_A]
        found: Values = np.asarray(word_TA.multiply(word_TA @ self.meanings.likeness(row_A, row_A)).sum(axis=1)).ravel()
        return found


@dataclass(frozen=True)
class TextRows:
    """Texts by their features, and by their words' meanings where these are known."""

    feature_TV: sparse.csr_matrix
    meant: Meant | None = None

    def __len__(self) -> int:
        return int(self.feature_TV.shape[0])

    def __getitem__(self, rows: slice | Indices) -> "TextRows":
        meant = self.meant and Meant(self.meant.meanings, self.meant.word_TW[rows])
        return TextRows(self.feature_TV[rows], meant)

    def products(self, other: "TextRows") -> Values:
        """(T, other's T)."""
        found = np.empty((len(self), len(other)))
        turned_VT = other.feature_TV.T.tocsr()
        for start in range(0, len(self), AT_ONCE):
            rows = slice(start, start + AT_ONCE)
            found[rows] = (self.feature_TV[rows] @ turned_VT).toarray()
            if self.meant and other.meant:
                found[rows] += Meant(self.meant.meanings, self.meant.word_TW[rows]).products(other.meant)
        return found

    def at_length_one(self) -> "TextRows":
        """The same rows, each of length 1; one without anything stays."""
        square_T = np.asarray(self.feature_TV.multiply(self.feature_TV).sum(axis=1)).ravel()
        if self.meant:
            blocks = [slice(start, start + AT_ONCE) for start in range(0, len(self), AT_ONCE)]
            meant = (Meant(self.meant.meanings, self.meant.word_TW[rows]).squares() for rows in blocks)
            square_T = square_T + np.concatenate([*meant, np.array([])])
        length_T = np.sqrt(square_T)
        share_TT = sparse.diags(1 / np.where(length_T > 0, length_T, 1))
        found = sparse.csr_matrix(share_TT @ self.feature_TV)
        if self.meant is None:
            return TextRows(found)
        return TextRows(found, Meant(self.meant.meanings, sparse.csr_matrix(share_TT @ self.meant.word_TW)))


def _used(word_TW: sparse.csr_matrix) -> Indices:
    found: Indices = np.unique(word_TW.indices).astype(np.int64)
    return found
