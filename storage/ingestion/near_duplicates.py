"""Pictures that are almost the same: in source order, the first one stands for those that resemble it. Pure.

A perceptual hash proposes, small colour pictures decide: the hash is blind to colour, and all flat pictures share one.
What a picture follows depends on tonight's pictures and their order alone; what is known of earlier nights saves work.
"""

# N = pictures in source order, V = different hashes, Q = those not compared yet, M = pairs

from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from pairloom.hash_bands import band_masks, by_band

Hashes = npt.NDArray[np.uint64]
Indices = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]
Thumbnails = npt.NDArray[np.uint8]
Agree = Callable[[Indices, Indices], Mask]
"""Which of the pairs of places (M,), (M,) show the same picture; asked for pairs whose hashes are close."""
Remembered = npt.NDArray[np.int8]
"""Of pairs (M,): 1 of the same picture, 0 of different ones, `UNKNOWN` where they were never compared."""
Recall = Callable[[Indices, Indices], Remembered]
"""What is remembered of pairs of places (M,), (M,)."""
UNKNOWN = -1
Key = TypeVar("Key", bound=Hashable)

THUMBNAIL = 32
"""Side of the colour pictures that are compared, in pixels. At 16, drawn faces that smile and frown are alike."""
MAX_DIFFERENCE = 7
"""What two of them may differ by, of 255, in any colour, on average over any 3 x 3 pixels: what re-encoding does to
single pixels cancels out there, what somebody drew anew does not (measured in docs/quarantine.md)."""
CROWD = 16
"""A picture is compared with at most so many earlier ones of one hash: flat pictures share theirs with thousands."""
_AT_ONCE = 4_000_000
"""Pairs of hashes compared at a time."""


@dataclass(frozen=True)
class CloseHashes:
    """Hashes that were compared with one another, and which of them are close. May be kept, and may be lost."""

    bits: int
    """How many bits close hashes may differ in."""
    hashes_V: Hashes
    """Ascending."""
    firsts_M: Hashes
    """With `seconds_M` the pairs, each once, the smaller hash first."""
    seconds_M: Hashes

    @classmethod
    def none(cls, bits: int) -> "CloseHashes":
        """Before anything was compared."""
        return cls(bits, *(np.empty(0, np.uint64) for _ in range(3)))

    def with_hashes(self, hashes_N: Hashes) -> "CloseHashes":
        """The same for exactly these hashes; those that weren't compared yet are compared with all others."""
        wanted_V = ascending(hashes_N)
        kept_M = _are_among(self.firsts_M, wanted_V) & _are_among(self.seconds_M, wanted_V)
        new_Q = np.flatnonzero(~_are_among(wanted_V, self.hashes_V))
        found = [np.stack([self.firsts_M[kept_M], self.seconds_M[kept_M]], axis=1)]
        found += [np.sort(wanted_V[pairs], axis=1) for pairs in _close_pairs(wanted_V, new_Q, self.bits)]
        pairs = np.unique(np.concatenate(found), axis=0)
        return CloseHashes(self.bits, wanted_V, pairs[:, 0], pairs[:, 1])


def nothing_remembered(earlier_M: Indices, _later_M: Indices) -> Remembered:
    """No pair was compared before."""
    return np.full(len(earlier_M), UNKNOWN, np.int8)


def followed(hashes_N: Hashes, close: CloseHashes, agree: Agree, recall: Recall = nothing_remembered) -> Indices:
    """The place of the picture that each follows (N,), its own where it follows none.

    A picture follows the first earlier one that it resembles and that follows none itself. `close` holds these hashes.
    What `recall` knows is not compared again, nor is anything with what is known by that to follow another.
    """
    earlier_M, later_M = candidates(hashes_N, close)
    same_M = recall(earlier_M, later_M)
    while True:
        followed_N, asked = _followed(len(hashes_N), earlier_M, later_M, same_M)
        if not len(asked):
            return followed_N
        same_M[asked] = agree(earlier_M[asked], later_M[asked])


def _followed(count: int, earlier_M: Indices, later_M: Indices, same_M: Remembered) -> tuple[Indices, Indices]:
    """What each follows as far as is known, and which pairs must be compared to know more."""
    follows, asked = list(range(count)), []
    undecided: set[int] = set()
    # By the later one, so that it is settled what the earlier one follows; then by the earlier one.
    telling = np.flatnonzero(same_M != 0)
    pairs = zip(*(each[telling].tolist() for each in (earlier_M, later_M, same_M)), strict=True)
    for row, (earlier, later, same) in zip(telling.tolist(), pairs, strict=True):
        if follows[later] != later or follows[earlier] != earlier:
            continue
        if same != UNKNOWN and earlier not in undecided and later not in undecided:
            follows[later] = earlier
            continue
        undecided.add(later)
        if same == UNKNOWN:
            asked.append(row)
    return np.array(follows, np.int64), np.array(asked, np.int64)


def candidates(hashes_N: Hashes, close: CloseHashes) -> tuple[Indices, Indices]:
    """Pairs of places (M,), (M,) whose hashes are close, the earlier one first, ordered by the later, then the earlier.

    Of each hash at most the first `CROWD` pictures are candidates for those after them.
    """
    values_V, hash_N, counts_V = np.unique(hashes_N, return_inverse=True, return_counts=True)
    # Pictures by hash, in source order; where those of each hash start.
    order_N, starts_V = np.argsort(hash_N, kind="stable"), np.cumsum(counts_V) - counts_V
    first_M, second_M = (np.searchsorted(values_V, each) for each in (close.firsts_M, close.seconds_M))
    own_V = np.arange(len(values_V))
    of_M, with_M = np.concatenate([own_V, first_M, second_M]), np.concatenate([own_V, second_M, first_M])
    # A hash that one picture has, with itself, is no pair.
    telling_M = (of_M != with_M) | (counts_V[of_M] > 1)
    of_M, with_M = of_M[telling_M], with_M[telling_M]
    pair_P, nth_P = _ranges(counts_V[of_M])
    later_P = order_N[starts_V[of_M][pair_P] + nth_P]
    row_M, nth_M = _ranges(np.minimum(counts_V[with_M], CROWD)[pair_P])
    earlier_M, later_M = order_N[starts_V[with_M][pair_P][row_M] + nth_M], later_P[row_M]
    right_M = earlier_M < later_M
    earlier_M, later_M = earlier_M[right_M], later_M[right_M]
    order_M = np.lexsort([earlier_M, later_M])
    return earlier_M[order_M], later_M[order_M]


def same_pictures(first_M: Thumbnails, second_M: Thumbnails) -> Mask:
    """Which of the pairs of colour pictures (M, THUMBNAIL, THUMBNAIL, 3) are the same to the eye."""
    padded_M = np.pad(first_M.astype(np.int16) - second_M, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="edge")
    rows_M = padded_M[:, :-2] + padded_M[:, 1:-1] + padded_M[:, 2:]
    sums_M = rows_M[:, :, :-2] + rows_M[:, :, 1:-1] + rows_M[:, :, 2:]
    return np.asarray(np.abs(sums_M).reshape(len(sums_M), -1).max(axis=1, initial=0) <= 9 * MAX_DIFFERENCE)


def leaving(followed_N: Indices, named_N: npt.NDArray[np.int8]) -> Mask:
    """Which pictures are no items of their own under `merge` and `drop` (N,): those that follow one.

    `named_N` are the splits that sources name, -1 where they name none. A picture whose own split is named otherwise
    than that of the one it follows stays: nobody's test picture is moved to training without a word.
    """
    follow_N = followed_N != np.arange(len(followed_N))
    return np.asarray(follow_N & ((named_N < 0) | (named_N == named_N[followed_N])))


def merged_texts(texts_N: Sequence[Sequence[str]], followed_N: Indices) -> dict[int, tuple[str, ...]]:
    """The texts of each picture that others follow, by its place: its own, then what is new in theirs."""
    merged: dict[int, dict[str, None]] = {}
    for place in np.flatnonzero(followed_N != np.arange(len(texts_N))).tolist():
        first = int(followed_N[place])
        merged.setdefault(first, dict.fromkeys(texts_N[first])).update(dict.fromkeys(texts_N[place]))
    return {place: tuple(texts) for place, texts in merged.items()}


def joined_keys(keys: Sequence[Key], followed_N: Indices) -> list[Key]:
    """The key that decides each picture's split, once whatever resembles one another has one key: the earliest's.

    `keys` are those of their groups: a whole group comes along, so that no split holds a copy of what another holds.
    """
    root: dict[Key, Key] = {}

    def of(key: Key) -> Key:
        while (above := root.get(key, key)) != key:
            root[key] = key = root.get(above, above)
        return key

    first = {key: place for place, key in reversed(list(enumerate(keys)))}
    for place in np.flatnonzero(followed_N != np.arange(len(keys))).tolist():
        ends = sorted({of(keys[place]), of(keys[followed_N[place]])}, key=first.__getitem__)
        root.update(dict.fromkeys(ends[1:], ends[0]))
    return [of(key) for key in keys]


def _close_pairs(hashes_V: Hashes, new_Q: Indices, bits: int) -> Iterator[Indices]:
    """Pairs of places (M, 2) of hashes that differ in at most `bits` bits, one of them new; some more than once.

    Only hashes that agree under one of the `band_masks` are compared.
    """
    old_V = np.ones(len(hashes_V), bool)
    old_V[new_Q] = False
    # New ones first: among those that agree, each meets all behind it, so that of two new ones one meets the other.
    place_V = np.concatenate([new_Q, np.flatnonzero(old_V)])
    value_V = hashes_V[place_V]
    for mask in band_masks(bits, 2 * len(new_Q)):
        band_V, order_V = by_band(value_V, mask)
        at_Q = np.flatnonzero(order_V < len(new_Q))
        counts_Q = np.searchsorted(band_V, band_V[at_Q], "right") - at_Q - 1
        ends_Q = np.cumsum(counts_Q)
        start = 0
        while start < len(at_Q):
            stop = max(start + 1, int(np.searchsorted(ends_Q, ends_Q[start] - counts_Q[start] + _AT_ONCE, "right")))
            row_M, nth_M = _ranges(counts_Q[start:stop])
            first_M = at_Q[start:stop][row_M]
            second_M = order_V[first_M + nth_M + 1]
            first_M = order_V[first_M]
            near_M = np.bitwise_count(value_V[first_M] ^ value_V[second_M]) <= bits
            yield place_V[np.stack([first_M[near_M], second_M[near_M]], axis=1)]
            start = stop


def ascending(hashes_N: Hashes) -> Hashes:
    """The different ones in their order: of millions several times as fast as by the table of `np.unique`."""
    sorted_N = np.sort(hashes_N)
    found: Hashes = sorted_N[np.flatnonzero(np.diff(sorted_N, prepend=~sorted_N[:1]))]
    return found


def _are_among(hashes_M: Hashes, ascending_V: Hashes) -> Mask:
    """Which of some hashes (M,) are among others; `np.isin` would make a table of them."""
    if not len(ascending_V):
        return np.zeros(len(hashes_M), bool)
    place_M = np.minimum(np.searchsorted(ascending_V, hashes_M), len(ascending_V) - 1)
    return np.asarray(ascending_V[place_M] == hashes_M)


def _ranges(counts_M: Indices) -> tuple[Indices, Indices]:
    """For counts 2, 0, 3: which count each unit is of (0, 0, 2, 2, 2), and which of its units it is (0, 1, 0, 1, 2)."""
    row = np.repeat(np.arange(len(counts_M)), counts_M)
    return row, np.arange(len(row)) - np.repeat(np.cumsum(counts_M) - counts_M, counts_M)
