"""Which items and texts make a batch: a pure function of seed and step, so a resumed run sees the same batches."""

# N = items, B = batch, K = hard negatives an anchor

import functools
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pairloom.models.arrays import Indices
from pairloom.models.batches.partners import Partners


@dataclass(frozen=True)
class Batch:
    """Item indices and, for each, one of its texts, drawn at random (an index into the unique texts)."""

    items_B: Indices
    texts_B: Indices


@dataclass(frozen=True)
class BatchPlan:
    """Cuts the items into batches, epoch after epoch."""

    item_texts: tuple[Indices, ...]
    """Indices of each item's texts."""
    negatives_NK: npt.NDArray[np.int32] | None
    """Mined hard negatives of each item, -1 for none."""
    batch_size: int
    hard_fraction: float
    """Share of a batch that is there as a hard negative of another item."""
    seed: int
    partners: Partners | None = None
    """Who anchors must meet."""
    partner_fraction: float = 0.0
    """Share of a batch that is there as a partner of an anchor, at most 1/2."""

    def batch(self, step: int) -> Batch:
        """The batch of a step: anchors in the epoch's random order, then partners and hard negatives of theirs."""
        count = len(self.item_texts)
        size = min(self.batch_size, count)
        hard = 0 if self.negatives_NK is None else int(size * self.hard_fraction)
        invited = 0 if self.partners is None else min(int(size * self.partner_fraction), (size - hard) // 2)
        anchors = self._anchors(step, size - hard - invited)
        random = np.random.default_rng([self.seed, 1, step])
        if self.partners is not None and invited:
            # Shuffled: not always the same anchors of a batch have theirs beside them.
            drawn = self.partners.draw(random.permutation(anchors), random)
            _, first = np.unique(drawn, return_index=True)
            drawn = drawn[np.sort(first)]
            anchors = np.concatenate([anchors, drawn[~np.isin(drawn, anchors)][:invited]])
        items = anchors
        if self.negatives_NK is not None and hard:
            mined = self.negatives_NK[random.permutation(anchors)].astype(np.int64)
            # One column after another: every anchor gets its first negative before any gets a second.
            mined = random.permuted(mined, axis=1).T.ravel()
            # Where too few were mined; of a large collection, enough of them.
            others = random.permutation(count) if count < 8 * size else random.integers(count, size=4 * hard)
            candidates = np.concatenate([mined[mined >= 0], others])
            _, first = np.unique(candidates, return_index=True)
            candidates = candidates[np.sort(first)]
            items = np.concatenate([anchors, candidates[~np.isin(candidates, anchors)][:hard]])
        texts = [self.item_texts[item][random.integers(len(self.item_texts[item]))] for item in items]
        return Batch(items, np.array(texts, dtype=np.int64))

    def other_texts(self, step: int, batch: Batch) -> Indices:
        """Another text of each item of a step's batch, drawn at random; the same one where an item has no other."""
        random = np.random.default_rng([self.seed, 2, step])
        pairs = zip(batch.items_B, batch.texts_B, strict=True)
        return np.array([_another(self.item_texts[item], text, random) for item, text in pairs], dtype=np.int64)

    def _anchors(self, step: int, size: int) -> Indices:
        count = len(self.item_texts)
        epoch, position = divmod(step, max(count // size, 1))
        return _order(self.seed, epoch, count)[position * size :][:size]


def _another(own: Indices, text: int, random: np.random.Generator) -> int:
    """One of an item's texts beside `text`, where it has several."""
    others = own[own != text] if len(own) > 1 else own
    return int(others[random.integers(len(others))])


@functools.lru_cache(maxsize=2)
def _order(seed: int, epoch: int, count: int) -> Indices:
    """The anchors of an epoch; drawn once, not once a step."""
    return np.random.default_rng([seed, 0, epoch]).permutation(count)
