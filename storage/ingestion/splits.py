"""Which split each item is in: its group's, by tonight's fractions, whatever it was before."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

MIN_TRAINING_ITEMS = 2


@dataclass(frozen=True, slots=True)
class Member:
    """What decides an item's split."""

    key: str
    """The item's group; its pixels where it has none."""
    named: str | None
    """The split that the source names."""


@dataclass(frozen=True)
class Fractions:
    """Shares of the groups that are held back."""

    val: float
    test: float

    def split(self, key: str) -> str:
        """train, val or test by a hash of `key`."""
        position = _position(key)
        if position < self.val:
            return "val"
        return "test" if position < self.val + self.test else "train"


def assign_splits(members: Sequence[Member], fractions: Fractions) -> list[str]:
    """The split of each item.

    What the source names stands; other items of a group follow the first one that is named, or else the hash of the
    group. Where that leaves fewer than two training items (a collection of one group falls wholly into one split), the
    groups farthest from being held back are for training.
    """
    of_group: dict[str, str] = {}
    for member in members:
        if member.named is not None:
            of_group.setdefault(member.key, member.named)
    hashed = {member.key: 0 for member in members if member.key not in of_group}
    for member in members:
        if member.key in hashed:
            hashed[member.key] += 1
    of_group |= {key: fractions.split(key) for key in hashed}
    splits = [member.named or of_group[member.key] for member in members]
    training = splits.count("train")
    if training < MIN_TRAINING_ITEMS:
        for key in sorted(hashed, key=_position, reverse=True):
            if training >= MIN_TRAINING_ITEMS:
                break
            if of_group[key] != "train":
                of_group[key] = "train"
                training += hashed[key]
        splits = [member.named or of_group[member.key] for member in members]
    return splits


def _position(key: str) -> float:
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big") / 2**64
