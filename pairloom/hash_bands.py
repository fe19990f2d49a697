"""Which bits close hashes share, so that not all are compared with all: for near-duplicates at ingest and in mining."""

from itertools import combinations, pairwise
from math import comb

import numpy as np

_SORTING = 8
"""What sorting costs a hash, in comparisons of two."""
_MOST_SHARED = 3


def band_masks(bits: int, count: int) -> list[np.uint64]:
    """Masks of which any two 64-bit hashes that differ in at most `bits` bits agree under one, or more.

    Of `bits` + s bands such hashes agree in s at least (pigeonhole principle), so that a mask takes s of them. More
    bands want more masks, and leave fewer of `count` hashes that agree by chance: s is what costs least, so that a
    hundred times the hashes cost little more than a hundred times as much.
    """

    def cost(shared: int) -> float:
        chance = 2.0 ** -(64 * shared // (bits + shared))
        return comb(bits + shared, shared) * (_SORTING + count * chance / 2)

    shared = min(range(1, _MOST_SHARED + 1), key=cost)
    edges = np.linspace(0, 64, bits + shared + 1).astype(int).tolist()
    bands = [(1 << high) - (1 << low) for low, high in pairwise(edges)]
    return [np.uint64(sum(own)) for own in combinations(bands, shared)]
