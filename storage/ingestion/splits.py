"""Which split each item is in: its group's, by tonight's fractions, whatever it was before."""

# N = items, G = groups

import hashlib
from dataclasses import dataclass

import numpy as np

MIN_TRAINING_ITEMS = 2

_TRAIN, _VAL, _TEST = range(3)


@dataclass(frozen=True)
class Fractions:
    """Shares of the groups that are held back."""

    val: float
    test: float

    def split(self, position: int) -> str:
        """train, val or test by the position of a group."""
        share = position / 2**64
        return "val" if share < self.val else "test" if share < self.val + self.test else "train"

    def splits(self, positions_G: np.ndarray) -> np.ndarray:
        """The same for many: places in `SPLITS`."""
        share_G = positions_G.astype(np.float64) / 2**64
        return np.where(share_G < self.val, _VAL, np.where(share_G < self.val + self.test, _TEST, _TRAIN))


def group_position(key: str) -> int:
    """Where a group (of an item without one: its pixels) stands among all there could be, by a hash; names it, too."""
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big")


def assign_splits(positions_N: np.ndarray, named_N: np.ndarray, fractions: Fractions) -> np.ndarray:
    """The split of each item, by the position of its group (uint64) and the split that the source names, or -1.

    What the source names stands; other items of a group follow the first one that is named, or else the hash of the
    group. Where that leaves fewer than two training items (a collection of one group falls wholly into one split), the
    groups farthest from being held back are for training.
    """
    groups_G, group_N, sizes_G = np.unique(positions_N, return_inverse=True, return_counts=True)
    split_G = fractions.splits(groups_G)
    free_G = np.ones(len(groups_G), bool)
    # Backwards, so that the first one that is named is the last one written.
    places = np.flatnonzero(named_N >= 0)[::-1]
    split_G[group_N[places]] = named_N[places]
    free_G[group_N[places]] = False
    splits_N = np.where(named_N >= 0, named_N, split_G[group_N])
    training = int((splits_N == _TRAIN).sum())
    if training < MIN_TRAINING_ITEMS:
        for group in np.flatnonzero(free_G & (split_G != _TRAIN))[::-1]:
            if training >= MIN_TRAINING_ITEMS:
                break
            split_G[group] = _TRAIN
            training += int(sizes_G[group])
        splits_N = np.where(named_N >= 0, named_N, split_G[group_N])
    return splits_N.astype(np.int8)
