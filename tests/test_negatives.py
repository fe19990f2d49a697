import numpy as np
import pytest

from models.mining import negatives
from models.mining.negatives import Embeddings, MiningConfig, mine_lexical_negatives, mine_negatives
from models.relations import Relations

COUNT, DIMENSION = 60, 8


def relations(texts: list[list[str]] | None = None) -> Relations:
    groups = [str(number % 20) for number in range(COUNT)]
    ids = [str(number) for number in range(COUNT)]
    return Relations.build(ids, groups, texts or [[f"text {n}"] for n in range(COUNT)], [None] * COUNT)


def embeddings(seed: int) -> Embeddings:
    vector_ND: Embeddings = np.random.default_rng(seed).normal(size=(COUNT, DIMENSION)).astype(np.float32)
    vector_ND[:, 0] += 3
    vector_ND /= np.linalg.norm(vector_ND, axis=1, keepdims=True)
    return vector_ND


def test_blocked_mining_matches_nested_loops(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(negatives, "ROWS", 7)
    monkeypatch.setattr(negatives, "COLUMNS", 11)
    image_ND, text_ND, config = embeddings(0), embeddings(1), MiningConfig(num_negatives=5, relative_margin=0.1)
    found = mine_negatives(image_ND, text_ND, relations(), config, seed=0)
    suspects = 0
    for i in range(COUNT):
        scores = {j: float(image_ND[i] @ text_ND[j]) for j in range(COUNT) if j % 20 != i % 20}
        ceiling = 0.9 * float(image_ND[i] @ text_ND[i])
        suspects += sum(score > ceiling for score in scores.values())
        expected = sorted((j for j in scores if scores[j] <= ceiling), key=lambda j: -scores[j])[:5]
        expected += [-1] * (5 - len(expected))
        assert found.indices_NK[i].tolist() == expected
        np.testing.assert_allclose(found.scores_NK[i], [scores[j] if j >= 0 else 0 for j in expected], atol=1e-6)
    assert found.skipped == {"known_positive": COUNT * 2, "relative_margin": suspects}
    assert found.indices_NK.dtype == np.int32


def test_lexical_negatives_share_a_word_and_are_no_positives() -> None:
    texts = [["royal gala apple"], ["golden apple"], ["golden delicious apple"], ["oat milk"]] + [
        [f"thing{number}"] for number in range(4, COUNT)
    ]
    found = mine_lexical_negatives(relations(texts), MiningConfig(num_negatives=2), seed=0)
    assert set(found.indices_NK[1].tolist()) == {0, 2}
    assert found.indices_NK[1, 0] == 2
    assert found.indices_NK[3].tolist() == [-1, -1]


def test_equal_scores_are_ordered_by_the_seed() -> None:
    texts = [[f"apple {number}"] for number in range(COUNT)]
    first, again, other = (
        mine_lexical_negatives(relations(texts), MiningConfig(), seed=seed).indices_NK for seed in (0, 0, 1)
    )
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()
