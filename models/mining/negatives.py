"""Hard negatives: for each item, the items whose texts come closest to its image without being known positives."""

# N = items, D = embedding, K = negatives an anchor, R = rows of a block, C = columns of a block, V = words

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, Field
from scipy import sparse  # type: ignore[import-untyped]  # SciPy publishes no type information

from models.relations import Indices, Mask, Relations, normalize_text

Embeddings = npt.NDArray[np.float32]
Scores = npt.NDArray[np.float32]

ROWS, COLUMNS = 512, 8192  # a block's scratch is a few arrays of 4 million numbers


class MiningConfig(BaseModel, frozen=True, extra="forbid", use_attribute_docstrings=True):
    """How hard negatives are chosen."""

    num_negatives: int = Field(default=4, ge=1, le=64)
    """Hard negatives kept per anchor."""
    relative_margin: float = Field(default=0.05, ge=0, lt=1)
    """A negative may score at most (1 - margin) times its anchor's positive: what scores higher may well be a positive
    nobody marked (NV-Retriever, Moreira et al. 2024)."""
    refresh_every: int | None = Field(default=None, ge=1)
    """Steps."""


@dataclass(frozen=True)
class Negatives:
    """K hard negatives for each of N items, hardest first."""

    indices_NK: npt.NDArray[np.int32]
    """Item indices; -1 for none."""
    scores_NK: Scores
    """Similarity of anchor and negative; 0 for none."""
    skipped: dict[str, int]
    """Pairs left out, by rule."""


def mine_negatives(
    image_ND: Embeddings, text_ND: Embeddings, relations: Relations, config: MiningConfig, *, seed: int
) -> Negatives:
    """Exact hard negatives from L2-normalised embeddings: by the similarity of an item's image to other items' texts.

    `text_ND` has one row an item, the mean of its texts. `seed` orders equal scores.
    """
    positive_N = np.einsum("nd,nd->n", image_ND, text_ND)
    ceiling_N = positive_N - config.relative_margin * np.abs(positive_N)
    return _mine(lambda rows, columns: image_ND[rows] @ text_ND[columns].T, ceiling_N, relations, config, seed)


def mine_lexical_negatives(relations: Relations, config: MiningConfig, *, seed: int) -> Negatives:
    """Hard negatives for a night without a champion: by TF-IDF cosine of the items' words, of which one is shared."""
    words_NV = _tf_idf(relations)

    def scores(rows: Indices, columns: Indices) -> Scores:
        score_RC: Scores = (words_NV[rows] @ words_NV[columns].T).toarray()
        # Items without a common word are no harder than a random one.
        return np.where(score_RC > 0, score_RC, -np.inf)

    ceiling_N = np.full(len(relations), 1 - config.relative_margin, dtype=np.float32)
    return _mine(scores, ceiling_N, relations, config, seed)


def _mine(
    scores: Callable[[Indices, Indices], Scores],
    ceiling_N: npt.NDArray[np.float32],
    relations: Relations,
    config: MiningConfig,
    seed: int,
) -> Negatives:
    """Blocked top-K over all pairs that are no positives and score no higher than the anchor's ceiling."""
    count, kept = len(relations), config.num_negatives
    # Columns come in random order, so that equal scores don't always pick the corpus's first items.
    shuffled_N = np.random.default_rng(seed).permutation(count)
    indices_NK = np.full((count, kept), -1, dtype=np.int32)
    scores_NK = np.zeros((count, kept), dtype=np.float32)
    skipped = {"known_positive": 0, "relative_margin": 0}
    for start in range(0, count, ROWS):
        rows = np.arange(start, min(start + ROWS, count))
        best_RK = np.full((len(rows), kept), -np.inf, dtype=np.float32)
        item_RK = np.full((len(rows), kept), -1, dtype=np.int64)
        for first in range(0, count, COLUMNS):
            columns = shuffled_N[first : first + COLUMNS]
            score_RC = scores(rows, columns)
            positive_RC: Mask = relations.positive_mask(rows, columns)
            suspect_RC = (score_RC > ceiling_N[rows, None]) & ~positive_RC
            skipped["known_positive"] += int(positive_RC.sum())
            skipped["relative_margin"] += int(suspect_RC.sum())
            score_RC = np.where(positive_RC | suspect_RC, -np.inf, score_RC)
            best_RK, item_RK = _merge(best_RK, item_RK, score_RC, columns)
        found_RK = np.isfinite(best_RK)
        indices_NK[rows] = np.where(found_RK, item_RK, -1)
        scores_NK[rows] = np.where(found_RK, best_RK, 0)
    skipped["known_positive"] -= count  # an item is no pair with itself
    return Negatives(indices_NK, scores_NK, skipped)


def _merge(best_RK: Scores, item_RK: Indices, score_RC: Scores, columns: Indices) -> tuple[Scores, Indices]:
    """The K best of what was kept and a block, best first."""
    kept = best_RK.shape[1]
    if score_RC.shape[1] > kept:
        order_RC = np.argpartition(-score_RC, kept - 1, axis=1)[:, :kept]
        score_RC = np.take_along_axis(score_RC, order_RC, axis=1)
        items_RC = columns[order_RC]
    else:
        items_RC = np.broadcast_to(columns, score_RC.shape)
    all_scores = np.concatenate([best_RK, score_RC], axis=1)
    all_items = np.concatenate([item_RK, items_RC], axis=1)
    order = np.argsort(-all_scores, axis=1, kind="stable")[:, :kept]
    return np.take_along_axis(all_scores, order, axis=1), np.take_along_axis(all_items, order, axis=1)


def _tf_idf(relations: Relations) -> sparse.csr_matrix:
    """L2-normalised TF-IDF of each item's words, float32 (N, V)."""
    number: dict[str, int] = {}
    words_T = [
        [number.setdefault(word, len(number)) for word in normalize_text(text).split()] for text in relations.texts
    ]
    words = [[word for text in own for word in words_T[text]] for own in relations.item_texts]
    rows = np.repeat(np.arange(len(words)), [len(own) for own in words])
    columns = np.array([word for own in words for word in own], dtype=np.int64)
    shape = (len(words), max(len(number), 1))
    counts_NV = sparse.csr_matrix((np.ones(len(rows), dtype=np.float32), (rows, columns)), shape=shape)
    document_V = np.bincount(counts_NV.indices, minlength=shape[1])
    weight_V = np.log((1 + len(words)) / (1 + document_V)) + 1
    weighted_NV = counts_NV.multiply(weight_V[None, :]).tocsr().astype(np.float32)
    norm_N = np.sqrt(np.asarray(weighted_NV.multiply(weighted_NV).sum(axis=1)).ravel())
    return sparse.diags(1 / np.maximum(norm_N, 1e-12)).astype(np.float32) @ weighted_NV


def batch_negatives(negatives: Negatives) -> npt.NDArray[np.int32]:
    return negatives.indices_NK
