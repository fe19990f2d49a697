"""Hard negatives: the items that the embeddings put close to an item without their being known positives of it."""

# N = items, D = embedding, C = candidates an anchor, K = negatives an anchor, M = pairs

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pairloom.models.arrays import Embeddings, Indices, Mask, Scores
from pairloom.models.batches.relations import Relations
from pairloom.models.mining.config import MiningConfig
from pairloom.models.mining.lists import DIRECTIONS, NeighbourLists, neighbour_lists
from pairloom.models.mining.neighbours import Neighbours

TEMPERATURE = 0.07  # CLIP's first one (Radford et al. 2021)
_PAIRS_AT_ONCE = 8192
_POSITIVE_IMAGES = 8


@dataclass(frozen=True)
class Negatives:
    """Up to K hard negatives for each of N items, hardest first."""

    indices_NK: npt.NDArray[np.int32]
    """Item indices; -1 for none."""
    scores_NK: Scores
    """Similarity of anchor and negative; 0 for none."""
    positive_N: Scores
    """What each anchor's positive scores; NaN where that is not known."""
    skipped: dict[str, int]
    """Candidates left out, by rule."""

    @classmethod
    def of_pairs(
        cls, anchors_M: Indices, others_M: npt.NDArray[np.integer], scores_M: Scores, count: int
    ) -> "Negatives":
        """Negatives of `count` items from pairs, an anchor's hardest first; the scores of positives aren't known."""
        order_M = np.argsort(anchors_M, kind="stable")
        anchors_M, sizes_N = anchors_M[order_M], np.bincount(anchors_M, minlength=count)
        places_M = np.arange(len(anchors_M)) - (np.cumsum(sizes_N) - sizes_N)[anchors_M]
        indices_NK = np.full((count, int(sizes_N.max(initial=0))), -1, dtype=np.int32)
        scores_NK = np.zeros(indices_NK.shape, dtype=np.float32)
        indices_NK[anchors_M, places_M], scores_NK[anchors_M, places_M] = others_M[order_M], scores_M[order_M]
        return cls(indices_NK, scores_NK, np.full(count, np.nan, dtype=np.float32), {})


def mine_negatives(
    image_ND: Embeddings,
    text_ND: Embeddings,
    relations: Relations,
    config: MiningConfig,
    *,
    seed: int,
    lists: NeighbourLists | None = None,
) -> dict[str, Negatives]:
    """Hard negatives by direction (`DIRECTIONS`), from L2-normalised embeddings; never a known positive.

    `text_ND` has one row an item, the mean of its texts. A positive of an image's or a text's is the item's own other
    side. Of an image among images it is the least similar known positive (of at most 8 of each kind); items without
    one take the median of those that have, since similarities of images are of another size than those of image and
    text. `lists` spares the search: those of `neighbour_lists` with `range_max` neighbours. `seed` decides sampling.
    """
    if lists is None:
        lists = neighbour_lists(image_ND, text_ND, relations, config.range_max)
    own_N = np.einsum("nd,nd->n", image_ND, text_ND)
    positive = dict.fromkeys(DIRECTIONS, own_N) | {"image_to_image": _image_positives(image_ND, relations, own_N)}
    return {
        direction: choose_negatives(lists.by_direction[direction], positive[direction], config, seed=[seed, number])
        for number, direction in enumerate(DIRECTIONS)
    }


def choose_negatives(candidates: Neighbours, positive_N: Scores, config: MiningConfig, *, seed: list[int]) -> Negatives:
    """Of each anchor's candidates (N, C), hardest first, those that margins, ranks and sampling leave."""
    score_NC, kept = candidates.scores_QK, config.num_negatives
    left_NC: Mask = candidates.indices_QK >= 0
    skipped = {}
    if config.absolute_margin is not None:
        close_NC = left_NC & (score_NC > (positive_N - config.absolute_margin)[:, None])
        left_NC, skipped["absolute_margin"] = left_NC & ~close_NC, int(close_NC.sum())
    if config.relative_margin is not None:
        close_NC = left_NC & (score_NC > (positive_N - config.relative_margin * np.abs(positive_N))[:, None])
        left_NC, skipped["relative_margin"] = left_NC & ~close_NC, int(close_NC.sum())
    hardest_NC = left_NC & (left_NC.cumsum(axis=1) <= config.range_min)
    left_NC, skipped["range_min"] = left_NC & ~hardest_NC, int(hardest_NC.sum())
    drawn_NC = np.argsort(-np.where(left_NC, _preference(candidates, config, seed), -np.inf), axis=1, kind="stable")
    # Those that are drawn come hardest first again.
    drawn_NK = np.sort(np.where(np.take_along_axis(left_NC, drawn_NC, 1), drawn_NC, left_NC.shape[1])[:, :kept], axis=1)
    found_NK = drawn_NK < left_NC.shape[1]
    place_NK = np.where(found_NK, drawn_NK, 0)
    return Negatives(
        np.where(found_NK, np.take_along_axis(candidates.indices_QK, place_NK, 1), np.int32(-1)),
        np.where(found_NK, np.take_along_axis(score_NC, place_NK, 1), np.float32(0)),
        positive_N,
        skipped,
    )


def batch_negatives(negatives: Mapping[str, Negatives]) -> npt.NDArray[np.int32]:
    """Each anchor's negatives of all directions, each once, -1 for none: the form that batches take.

    The hardest of every direction come first, then the second of each; (N, sum of K).
    """
    widest = max(each.indices_NK.shape[1] for each in negatives.values())
    padded = [
        np.pad(each.indices_NK, ((0, 0), (0, widest - each.indices_NK.shape[1])), constant_values=-1)
        for each in negatives.values()
    ]
    all_NM = np.stack(padded, axis=2).reshape(len(padded[0]), -1)
    order_NM = np.argsort(all_NM, axis=1, kind="stable")
    sorted_NM = np.take_along_axis(all_NM, order_NM, axis=1)
    again_NM = np.zeros(all_NM.shape, dtype=bool)
    again_NM[:, 1:] = sorted_NM[:, 1:] == sorted_NM[:, :-1]
    np.put_along_axis(all_NM, order_NM, np.where(again_NM, np.int32(-1), sorted_NM), axis=1)
    first_NM = np.argsort(all_NM < 0, axis=1, kind="stable")
    width = sum(each.indices_NK.shape[1] for each in negatives.values())
    return np.take_along_axis(all_NM, first_NM, axis=1)[:, :width]


def _preference(candidates: Neighbours, config: MiningConfig, seed: list[int]) -> npt.NDArray[np.float64]:
    """What sampling goes by: the largest are drawn (N, C)."""
    if config.sampling == "top":
        return candidates.scores_QK.astype(np.float64)
    chance_NC = _chances(candidates.indices_QK, seed)
    if config.sampling == "random":
        return chance_NC
    # Drawing by softmax without replacement is taking the largest of scores with Gumbel noise (Kool et al. 2019).
    return candidates.scores_QK.astype(np.float64) / TEMPERATURE - np.log(-np.log(chance_NC))


def _chances(indices_NC: npt.NDArray[np.int32], seed: list[int]) -> npt.NDArray[np.float64]:
    """A number between 0 and 1 of each pair's own, by SplitMix64 (Steele et al. 2014): the same in any block."""
    state_NC = indices_NC.astype(np.uint64) + np.uint64(1)
    for value in (np.arange(len(indices_NC))[:, None], *map(np.array, seed)):
        with np.errstate(over="ignore"):
            state_NC = (state_NC + value.astype(np.uint64)) * np.uint64(0x9E3779B97F4A7C15)
            state_NC = (state_NC ^ (state_NC >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
            state_NC = (state_NC ^ (state_NC >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
            state_NC = state_NC ^ (state_NC >> np.uint64(31))
    return ((state_NC >> np.uint64(11)).astype(np.float64) + 0.5) / 2.0**53


def _image_positives(image_ND: Embeddings, relations: Relations, own_N: Scores) -> Scores:
    """Similarity of each image and its least similar known positive; the median of all where it has none (N,)."""
    pairs = relations.positive_pairs(max_per_anchor=_POSITIVE_IMAGES)
    least_N = np.full(len(relations), np.inf, dtype=np.float32)
    for start in range(0, len(pairs.anchors_M), _PAIRS_AT_ONCE):
        anchors = pairs.anchors_M[start : start + _PAIRS_AT_ONCE]
        others = pairs.positives_M[start : start + _PAIRS_AT_ONCE]
        np.minimum.at(least_N, anchors, np.einsum("md,md->m", image_ND[anchors], image_ND[others]))
    has_N = np.isfinite(least_N)
    # Without a single known pair of images there is no measure of them but the texts'.
    return np.where(has_N, least_N, np.median(least_N[has_N]) if has_N.any() else own_N).astype(np.float32)
