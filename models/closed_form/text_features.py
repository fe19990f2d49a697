"""Features of texts made by hand: words, and the pieces that words with one stem share."""

# T = texts, V = places

import re
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from scipy import sparse  # type: ignore[import-untyped]  # SciPy publishes no type information

from pairloom.models.arrays import Values
from pairloom.models.closed_form.text_rows import Meant, TextRows
from pairloom.models.closed_form.word_meanings import WordMeanings

PLACES = 1 << 18
"""How many features there are; what falls into the same place counts as the same."""
LENGTHS = (3, 4)
"""Of the pieces of a word, in characters, its two ends counted as one each."""
WORD = 3.0
"""What a whole word weighs beside a piece."""
MEANING = 8.0
"""What a word's meaning weighs beside a piece."""
LONGEST = 64
"""Characters of a word, and words of a text, that are looked at."""
TOKEN = re.compile(r"\w+|[^\w\s]")


@dataclass(frozen=True)
class TextFeatures:
    """Features that weigh more the fewer texts have them."""

    rarity_V: Values
    """log((1 + texts) / (1 + texts that have it)) + 1 (inverse document frequency, Spärck Jones 1972)."""
    meanings: WordMeanings | None = None

    @classmethod
    def fit(cls, texts: Sequence[str], meanings: WordMeanings | None = None) -> "TextFeatures":
        """As rare as features are in `texts`."""
        having_V = np.bincount(counts(texts).indices, minlength=PLACES)
        return cls(np.log((1 + len(texts)) / (1 + having_V)) + 1, meanings)

    def unscaled(self, texts: Sequence[str]) -> TextRows:
        """The same before rows are scaled, so that a text's are the sum of its words'."""
        found_TV = counts(texts)
        found_TV.data *= self.rarity_V[found_TV.indices]
        if self.meanings is None:
            return TextRows(found_TV)
        return TextRows(found_TV, Meant(self.meanings, self._meant(texts, self.meanings)))

    def __call__(self, texts: Sequence[str]) -> TextRows:
        """Rows of length 1; a text without a character has none."""
        return self.unscaled(texts).at_length_one()

    def _meant(self, texts: Sequence[str], meanings: WordMeanings) -> sparse.csr_matrix:
        """(T, W): the words with a meaning, as rare as they are."""
        rows: list[int] = []
        weights: list[float] = []
        ends = [0]
        for text in texts:
            for token in _tokens(text):
                if (row := meanings.row.get(token)) is not None:
                    rows.append(row)
                    weights.append(MEANING * self.rarity_V[_places(token)[0]])
            ends.append(len(rows))
        return _rows(weights, rows, ends, len(meanings.row))


def counts(texts: Sequence[str]) -> sparse.csr_matrix:
    """(T, V): how often each text has each word, `WORD` a time, and each piece of a word.

    Capitals are other letters: give texts in one form. Features are hashed to places (Weinberger et al. 2009, without
    their signs) by CRC-32, which is the same everywhere.
    """
    places: list[int] = []
    weights: list[float] = []
    ends = [0]
    for text in texts:
        for token in _tokens(text):
            own = _places(token)
            places.extend(own)
            weights.extend((WORD, *(1.0,) * (len(own) - 1)))
        ends.append(len(places))
    return _rows(weights, places, ends, PLACES)


def _tokens(text: str) -> list[str]:
    return [token[:LONGEST] for token in TOKEN.findall(text)[:LONGEST]]


def _rows(weights: list[float], columns: list[int], ends: list[int], width: int) -> sparse.csr_matrix:
    found = sparse.csr_matrix(
        (np.array(weights, np.float64), np.array(columns, np.int32), np.array(ends, np.int64)), (len(ends) - 1, width)
    )
    found.sum_duplicates()
    return found


@lru_cache(maxsize=1 << 14)
def _places(word: str) -> tuple[int, ...]:
    """Of the word itself, then of its pieces."""
    marked = f"\x02{word}\x03"
    pieces = (marked[at : at + size] for size in LENGTHS for at in range(len(marked) - size + 1))
    return tuple(zlib.crc32(each.encode("utf-8", "surrogatepass")) % PLACES for each in (f"\x01{word}", *pieces))
