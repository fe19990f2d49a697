"""Lexical negatives against bm25s's own scores."""

import bm25s
import numpy as np
import pytest

from pairloom.models.batches.relations import Relations
from pairloom.models.mining import lexical
from pairloom.models.mining.config import MiningConfig
from pairloom.models.mining.lexical import mine_lexical_negatives
from pairloom.models.mining.negatives import Negatives

COUNT = 60
CONFIG = MiningConfig(near_duplicate_bits=None)


def relations(texts: list[list[str]], groups: list[str | None] | None = None) -> Relations:
    ids = [str(number) for number in range(len(texts))]
    return Relations.build(ids, groups or [None] * len(texts), texts, [None] * len(texts))


def mined(
    texts: list[list[str]], config: MiningConfig = CONFIG, seed: int = 0, **options: list[str | None]
) -> Negatives:
    return mine_lexical_negatives(relations(texts, **options), config, seed=seed)["lexical"]


def test_negatives_are_the_best_of_bm25s_own_scores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lexical, "_PAIRS_AT_ONCE", 200)
    random = np.random.default_rng(0)
    texts = [[" ".join(f"w{word}" for word in random.integers(30, size=random.integers(1, 9)))] for _ in range(COUNT)]
    groups: list[str | None] = [str(number % 20) for number in range(COUNT)]
    found = mined(texts, MiningConfig(num_negatives=5, relative_margin=None), groups=groups)
    index = bm25s.BM25()
    index.index([own[0].split() for own in texts], show_progress=False)
    for i in range(COUNT):
        scores = index.get_scores(sorted(set(texts[i][0].split())))
        own = scores[i]
        related = [j for j in range(COUNT) if j % 20 == i % 20 or texts[j] == texts[i]]
        scores[related] = 0
        expected = [score for score in sorted(scores / own, reverse=True)[:5] if score > 0]
        kept = found.indices_NK[i] >= 0
        np.testing.assert_allclose(found.scores_NK[i, kept], expected, rtol=1e-5)
        np.testing.assert_allclose(scores[found.indices_NK[i, kept]] / own, expected, rtol=1e-5)


def test_negatives_share_a_word_and_are_no_positives() -> None:
    texts = [["royal gala apple"], ["golden apple"], ["golden delicious apple"], ["oat milk"]]
    found = mined(texts + [[f"thing{number}"] for number in range(4, COUNT)], groups=["a", "b", "c", *["d"] * 57])
    assert found.indices_NK[1].tolist() == [2, 0, -1, -1]
    assert found.indices_NK[3].tolist() == [-1] * 4


def test_equal_scores_are_ordered_by_the_seed() -> None:
    texts = [[f"apple {number}"] for number in range(COUNT)]
    first, again, other = (mined(texts, seed=seed).indices_NK for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()
    assert (first >= 0).all()


def test_a_word_that_a_crowd_shares_is_not_searched_by(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lexical, "CROWD", 10)
    texts = [[f"icon pair{number // 2} only{number}"] for number in range(COUNT)]
    found = mined(texts)
    assert found.indices_NK[:, 0].tolist() == [number ^ 1 for number in range(COUNT)]
    assert (found.indices_NK[:, 1:] == -1).all()


def test_texts_without_words_have_no_negatives() -> None:
    assert (mined([[" "], [""], []]).indices_NK == -1).all()
