"""Hard negatives for a night without a champion: items whose words are alike, by BM25."""

# N = items, V = words, R = rows, C = candidates an anchor

import logging

import bm25s
import numpy as np
from scipy import sparse  # type: ignore[import-untyped]  # SciPy publishes no type information

from pairloom.models.arrays import Indices, Scores
from pairloom.models.batches.relations import Relations, normalize_text
from pairloom.models.mining.config import MiningConfig
from pairloom.models.mining.negatives import Negatives, choose_negatives
from pairloom.models.mining.neighbours import Neighbours
from pairloom.models.mining.positives import KnownPositives

CROWD = 5000
"""A word that more items share says too little to be searched by, and would cost the most."""
_PAIRS_AT_ONCE = 4_000_000


def mine_lexical_negatives(relations: Relations, config: MiningConfig, *, seed: int) -> dict[str, Negatives]:
    """Hard negatives under `lexical`: by BM25 of an item's words over all items' words, of which one is shared.

    Scores are shares of what the item itself scores, which is the positive score that margins are measured from.
    `seed` orders equal scores.
    """
    # Items come in random order, so that equal scores don't always pick the corpus's first ones.
    shuffled_N = np.random.default_rng(seed).permutation(len(relations))
    words = _words(relations)
    query_NV, score_VN = _index([words[item] for item in shuffled_N])
    known, width = KnownPositives(relations), config.range_max
    indices_NC = np.full((len(relations), width), -1, dtype=np.int32)
    scores_NC = np.full((len(relations), width), -np.inf, dtype=np.float32)
    for rows in _blocks(query_NV, score_VN):
        score_RN = query_NV[rows] @ score_VN
        self_R = np.asarray(score_RN[np.arange(len(rows)), rows]).ravel()
        positive_RN = known.of(shuffled_N[rows])[:, shuffled_N]
        score_RN = (score_RN - score_RN.multiply(positive_RN)).tocsr()
        score_RN.eliminate_zeros()
        for row, place in enumerate(rows):
            begin, end = score_RN.indptr[row], score_RN.indptr[row + 1]
            others, scores = score_RN.indices[begin:end], score_RN.data[begin:end]
            best = np.lexsort((others, -scores))[:width]
            indices_NC[shuffled_N[place], : len(best)] = shuffled_N[others[best]]
            scores_NC[shuffled_N[place], : len(best)] = scores[best] / self_R[row]
    positive_N: Scores = np.ones(len(relations), dtype=np.float32)
    return {"lexical": choose_negatives(Neighbours(indices_NC, scores_NC), positive_N, config, seed=[seed])}


def _words(relations: Relations) -> list[list[str]]:
    """Each item's words, of all its texts."""
    words_T = [normalize_text(text).split() for text in relations.texts]
    return [[word for text in own for word in words_T[text]] for own in relations.item_texts]


def _index(words: list[list[str]]) -> tuple[sparse.csr_matrix, sparse.csr_matrix]:
    """Which words each item is searched by (N, V), and what each word scores in each item (V, N)."""
    logging.getLogger("bm25s").setLevel(logging.WARNING)  # it lets its own debug lines through
    number: dict[str, int] = {}
    ids = [[number.setdefault(word, len(number)) for word in own] for own in words]
    shape = (len(words), max(len(number), 1))
    if not number:
        return sparse.csr_matrix(shape, dtype=np.float32), sparse.csr_matrix(shape[::-1], dtype=np.float32)
    index = bm25s.BM25()
    index.index((ids, number), create_empty_token=False, show_progress=False)
    parts = (index.scores["data"], index.scores["indices"], index.scores["indptr"])
    score_NV = sparse.csc_matrix(parts, shape=shape)
    score_VN = score_NV.T.tocsr()
    score_VN.sort_indices()
    rows = np.repeat(np.arange(len(ids)), [len(set(own)) for own in ids])
    columns = np.array([word for own in ids for word in sorted(set(own))], dtype=np.int64)
    telling = np.diff(score_VN.indptr)[columns] <= CROWD
    ones = np.ones(int(telling.sum()), dtype=np.float32)
    return sparse.csr_matrix((ones, (rows[telling], columns[telling])), shape=shape), score_VN


def _blocks(query_NV: sparse.csr_matrix, score_VN: sparse.csr_matrix) -> list[Indices]:
    """Runs of items that together have a bounded number of scores."""
    cost_N = query_NV @ np.diff(score_VN.indptr).astype(np.float64)
    block_N = np.floor(np.cumsum(cost_N + 1) / _PAIRS_AT_ONCE)
    return np.split(np.arange(len(cost_N)), np.flatnonzero(np.diff(block_N)) + 1)
