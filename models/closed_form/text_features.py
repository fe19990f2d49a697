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

PLACES = 1 << 18
"""How many features there are; what falls into the same place counts as the same."""
LENGTHS = (3, 4)
"""Of the pieces of a word, in characters, its two ends counted as one each."""
WORD = 3.0
"""What a whole word weighs beside a piece."""
LONGEST = 64
"""Characters of a word, and words of a text, that are looked at."""
TOKEN = re.compile(r"\w+|[^\w\s]")


@dataclass(frozen=True)
class TextFeatures:
    """Features that weigh more the fewer texts have them."""

    rarity_V: Values
    """log((1 + texts) / (1 + texts that have it)) + 1 (inverse document frequency, Spärck Jones 1972)."""

    @classmethod
    def fit(cls, texts: Sequence[str]) -> "TextFeatures":
        """As rare as features are in `texts`."""
        having_V = np.bincount(counts(texts).indices, minlength=PLACES)
        return cls(np.log((1 + len(texts)) / (1 + having_V)) + 1)

    def unscaled(self, texts: Sequence[str]) -> sparse.csr_matrix:
        """(T, V): the same before rows are scaled, so that a text's are the sum of its words'."""
        found_TV = counts(texts)
        found_TV.data *= self.rarity_V[found_TV.indices]
        return found_TV

    def __call__(self, texts: Sequence[str]) -> sparse.csr_matrix:
        """(T, V), rows of length 1; a text without a character has none."""
        found_TV = self.unscaled(texts)
        length_T = np.sqrt(np.asarray(found_TV.multiply(found_TV).sum(axis=1)).ravel())
        return sparse.csr_matrix(sparse.diags(1 / np.where(length_T > 0, length_T, 1)) @ found_TV)


def counts(texts: Sequence[str]) -> sparse.csr_matrix:
    """(T, V): how often each text has each word, `WORD` a time, and each piece of a word.

    Capitals are other letters: give texts in one form. Features are hashed to places (Weinberger et al. 2009, without
    their signs) by CRC-32, which is the same everywhere.
    """
    places: list[int] = []
    weights: list[float] = []
    ends = [0]
    for text in texts:
        for token in TOKEN.findall(text)[:LONGEST]:
            own = _places(token[:LONGEST])
            places.extend(own)
            weights.extend((WORD, *(1.0,) * (len(own) - 1)))
        ends.append(len(places))
    found_TV = sparse.csr_matrix(
        (np.array(weights, np.float64), np.array(places, np.int32), np.array(ends, np.int64)), (len(texts), PLACES)
    )
    found_TV.sum_duplicates()
    return found_TV


@lru_cache(maxsize=1 << 14)
def _places(word: str) -> tuple[int, ...]:
    """Of the word itself, then of its pieces."""
    marked = f"\x02{word}\x03"
    pieces = (marked[at : at + size] for size in LENGTHS for at in range(len(marked) - size + 1))
    return tuple(zlib.crc32(each.encode("utf-8", "surrogatepass")) % PLACES for each in (f"\x01{word}", *pieces))
