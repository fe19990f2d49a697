"""Near-duplicates: pictures whose perceptual hashes differ in a few bits and whose small colour thumbnails agree.

The hash alone is not enough: it is blind to colour, and all flat pictures share one.
"""

# N = items, M = pairs, U = items in any pair

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from pairloom.hash_bands import band_masks, by_band
from pairloom.models.arrays import Indices

Thumbnails = npt.NDArray[np.uint8]

THUMBNAIL = 32
"""Side of the thumbnails that are compared, in pixels. At 16, drawn faces that smile and frown differ by 1 of 255."""
MAX_DIFFERENCE = 20
"""What near-duplicates may differ by, of 255, in any pixel and colour. Among 7,791 emoji and with box-averaged
thumbnails the first pair of different shapes differs by 25, a sleeper's skin tones by 33. A mean would not see them."""
CROWD = 64
"""A hash that more items share says too little about a picture: those of flat and nearly flat pictures."""
_FLAT = (0, 1 << 63)
_PAIRS_AT_ONCE = 4096


def near_duplicates(
    hashes: Sequence[str | None], bits: int, thumbnails: Callable[[Indices], Thumbnails]
) -> tuple[Indices, Indices]:
    """Pairs of items (M,), (M,), each once, the first below the second, sorted.

    `hashes` are 64-bit perceptual hashes in 16 hexadecimal digits; `bits` is how many may differ. `thumbnails` gives
    uint8 (U, THUMBNAIL, THUMBNAIL, 3) of the items it is asked for, which are those of candidate pairs only.
    """
    first_M, second_M = similar_hashes(hashes, bits)
    wanted_U = np.unique(np.concatenate([first_M, second_M]))
    if not len(wanted_U):
        return first_M, second_M
    small_U = thumbnails(wanted_U)
    agree_M = np.zeros(len(first_M), dtype=bool)
    for start in range(0, len(first_M), _PAIRS_AT_ONCE):
        block = slice(start, start + _PAIRS_AT_ONCE)
        a, b = (small_U[np.searchsorted(wanted_U, items[block])].astype(np.int16) for items in (first_M, second_M))
        agree_M[block] = np.abs(a - b).max(axis=(1, 2, 3)) <= MAX_DIFFERENCE
    return first_M[agree_M], second_M[agree_M]


def similar_hashes(hashes: Sequence[str | None], bits: int) -> tuple[Indices, Indices]:
    """All pairs of items whose hashes differ in at most `bits` bits, but for those of flat pictures and crowds.

    Only items that agree in all bits of one of the `band_masks` are compared: in memory O(N + pairs compared at a time
    + pairs found).
    """
    known = np.array([n for n, each in enumerate(hashes) if each is not None], dtype=np.int64)
    values = np.array([int(each, 16) for each in hashes if each is not None], dtype=np.uint64)
    _, inverse, sizes = np.unique(values, return_inverse=True, return_counts=True)
    telling = (sizes[inverse] <= CROWD) & ~np.isin(values, np.array(_FLAT, dtype=np.uint64))
    known, values = known[telling], values[telling]
    found = [np.empty((0, 2), dtype=np.int64)]
    for mask in band_masks(bits, len(values)):
        band, order = by_band(values, mask)
        # Each with the next of its band, then with the one after the next, until no band is that long.
        place, step = np.flatnonzero(band[1:] == band[:-1]), 1
        while len(place):
            one, other = order[place], order[place + step]
            close = np.bitwise_count(values[one] ^ values[other]) <= bits
            found.append(np.sort(np.stack([known[one[close]], known[other[close]]], axis=1), axis=1))
            step += 1
            place = place[place + step < len(order)]
            place = place[band[place] == band[place + step]]
    pairs = np.unique(np.concatenate(found), axis=0)
    return pairs[:, 0], pairs[:, 1]
