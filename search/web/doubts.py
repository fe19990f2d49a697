"""Items whose own text fits their picture less than the texts of the pictures nearest to it do."""

# N = items, B = items of a block, D = embedding, K = neighbours

from dataclasses import dataclass

import numpy as np

from pairloom.models.arrays import Embeddings, Indices, Mask, Scores
from pairloom.models.mining.cells import Places, Progress

NEARNESS = 10.0
"""How much more a nearer neighbour says: the weight is exp of this times its cosine."""
BETTER, DOUBT = 0.1, 0.6
"""How much better neighbours' texts must fit an image than its own, in cosine similarity; and the least doubt, which
also counts how unlike the texts are and how far the neighbours agree. benchmarks/web.md says what that finds."""
BLOCK = 4_096


@dataclass(frozen=True)
class Doubts:
    """How far each item's text is doubted."""

    doubt_N: Scores
    """0 where its neighbours' texts fit no better."""
    said_N: Indices
    """The neighbour whose text fits the picture best."""

    @property
    def suspects(self) -> Indices:
        """Places of the items that are likely mislabelled, the surest first."""
        found = np.flatnonzero(self.doubt_N > DOUBT)
        return found[np.argsort(-self.doubt_N[found], kind="stable")]


def doubted(
    image_ND: Embeddings,
    text_ND: Embeddings,
    neighbours: tuple[Places, Scores],
    trained_N: Mask,
    progress: Progress,
) -> Doubts:
    """Of each item how much better the texts of its nearest others fit its image, the more so where these agree.

    `neighbours` are their places and cosines, (N, K) each. Out of fold as far as one model allows: an item's own text
    has no say in what its neighbours' texts are, and items that the model trained on are measured beside one another,
    as are those that it didn't.
    """
    near_NK, cosine_NK = neighbours
    count = len(image_ND)
    doubt_N, said_N, better_N = np.zeros(count, np.float32), np.arange(count), np.zeros(count, np.float32)
    for start in range(0, count if near_NK.shape[1] else 0, BLOCK):
        progress(start / count)
        own = slice(start, min(start + BLOCK, count))
        image_BD, text_BD, near_BK = image_ND[own], text_ND[own], near_NK[own]
        near_BKD = text_ND[near_BK]
        their_BK = np.einsum("bd,bkd->bk", image_BD, near_BKD)
        # The median: one neighbour that is wrong itself decides nothing.
        better_N[own] = np.median(their_BK, axis=1) - np.einsum("bd,bd->b", image_BD, text_BD)
        weight_BK = np.exp((cosine_NK[own] - 1) * NEARNESS)
        mean_BD = np.einsum("bk,bkd->bd", weight_BK / weight_BK.sum(axis=1, keepdims=True), near_BKD)
        agreed_B = np.maximum(np.linalg.norm(mean_BD, axis=1), 1e-9)
        unlike_B = 1 - np.einsum("bd,bd->b", mean_BD / agreed_B[:, None], text_BD)
        doubt_N[own] = agreed_B * (better_N[own] + unlike_B)
        said_N[own] = np.take_along_axis(near_BK, their_BK.argmax(axis=1)[:, None], axis=1)[:, 0]
    for fold_N in (trained_N, ~trained_N):
        if fold_N.any():
            doubt_N[fold_N] -= max(0.0, float(np.median(doubt_N[fold_N])))
    doubt_N[better_N < BETTER] = 0
    return Doubts(doubt_N, said_N)
