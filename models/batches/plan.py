"""Which items and texts make a batch: a pure function of seed and step, so a resumed run sees the same batches."""

# N = items, B = batch, K = hard negatives an anchor

import functools
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pairloom.models.arrays import Indices
from pairloom.models.batches.partners import Partners
from pairloom.models.ragged import Ragged


@dataclass(frozen=True)
class Batch:
    """Item indices and, for each, one of its texts, drawn at random (an index into the unique texts)."""

    items_B: Indices
    texts_B: Indices


@dataclass(frozen=True)
class BatchPlan:
    """Cuts the items into batches, epoch after epoch."""

    item_texts: Ragged
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
            anchors = np.concatenate([anchors, _first_new(drawn, anchors, invited)])
        items = anchors
        if self.negatives_NK is not None and hard:
            mined = self.negatives_NK[random.permutation(anchors)].astype(np.int64)
            # One column after another: every anchor gets its first negative before any gets a second.
            mined = random.permuted(mined, axis=1).T.ravel()
            # Where too few were mined; of a large collection, enough of them.
            others = random.permutation(count) if count < 8 * size else random.integers(count, size=4 * hard)
            candidates = np.concatenate([mined[mined >= 0], others])
            items = np.concatenate([anchors, _first_new(candidates, anchors, hard)])
        places = self.item_texts.starts[items] + random.integers(self.item_texts.counts_of(items))
        return Batch(items, self.item_texts.values_V[places])

    def other_texts(self, step: int, batch: Batch) -> Indices:
        """Another text of each item of a step's batch, drawn at random; the same one where an item has no other."""
        random = np.random.default_rng([self.seed, 2, step])
        own = self.item_texts.take(batch.items_B)
        place_B = random.integers(np.maximum(own.counts - 1, 1))
        # Those from the drawn one on move up by one.
        drawn_B = np.flatnonzero(own.values_V == batch.texts_B[own.owners]) - own.starts
        place_B += (place_B >= drawn_B) & (own.counts > 1)
        others_B: Indices = own.values_V[own.starts + place_B]
        return others_B

    def _anchors(self, step: int, size: int) -> Indices:
        count = len(self.item_texts)
        epoch, position = divmod(step, max(count // size, 1))
        return _order(self.seed, epoch, count)[position * size :][:size]


def _first_new(candidates: Indices, known: Indices, wanted: int) -> Indices:
    """The first `wanted` candidates that are not known, each once, in their order; fewer where there are no more."""
    # Mostly, a few of them do.
    for some in (candidates[: 2 * wanted], candidates):
        _, first = np.unique(some, return_index=True)
        found = some[np.sort(first)]
        found = found[~np.isin(found, known)][:wanted]
        if len(found) == wanted:
            break
    return found


@functools.lru_cache(maxsize=2)
def _order(seed: int, epoch: int, count: int) -> Indices:
    """The anchors of an epoch; drawn once, not once a step."""
    return np.random.default_rng([seed, 0, epoch]).permutation(count)
