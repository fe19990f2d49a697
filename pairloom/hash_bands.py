"""Which bits close hashes share, so that not all are compared with all: for near-duplicates at ingest and in mining."""

from itertools import combinations, pairwise
from math import comb

import numpy as np
import numpy.typing as npt

Hashes = npt.NDArray[np.uint64]
Indices = npt.NDArray[np.int64]

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


def by_band(hashes_N: Hashes, mask: np.uint64) -> tuple[Hashes, Indices]:
    """What stands under a mask, ascending, and the places of the hashes in that order; of equal ones in their own."""
    # Without the mask's gaps, so that the place fits beside it: numbers are sorted several times as fast as places.
    band_N, width = np.zeros(len(hashes_N), np.uint64), 0
    for low, high in _runs(int(mask)):
        band_N |= ((hashes_N >> np.uint64(low)) & np.uint64((1 << high - low) - 1)) << np.uint64(width)
        width += high - low
    room = max(len(hashes_N) - 1, 0).bit_length()
    if width + room > 64:
        order_N = np.argsort(band_N, kind="stable")
        return band_N[order_N], order_N
    band_N <<= np.uint64(room)
    band_N |= np.arange(len(hashes_N), dtype=np.uint64)
    band_N.sort()
    order_N = (band_N & np.uint64((1 << room) - 1)).astype(np.int64)
    band_N >>= np.uint64(room)
    return band_N, order_N


def _runs(mask: int) -> list[tuple[int, int]]:
    """Where ones stand together in a mask: from a bit to the one behind the last."""
    edges = [at for at in range(65) if (mask >> at & 1) != (mask << 1 >> at & 1)]
    return [*zip(edges[::2], edges[1::2], strict=True)]
