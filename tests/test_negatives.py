"""Hard negatives against nested loops."""

import numpy as np
import pytest
from pydantic import ValidationError

from pairloom.models.arrays import Embeddings
from pairloom.models.batches.relations import KINDS, Edges, Relations
from pairloom.models.mining.config import MiningConfig
from pairloom.models.mining.lists import DIRECTIONS, neighbour_lists
from pairloom.models.mining.negatives import Negatives, batch_negatives, mine_negatives

COUNT, DIMENSION = 60, 8


def relations(*pairs: tuple[int, int], groups: int = 20) -> Relations:
    ids, texts = [str(number) for number in range(COUNT)], [[f"text {n}"] for n in range(COUNT)]
    built = Relations.build(ids, [str(number % groups) for number in range(COUNT)], texts, [None] * COUNT)
    one, other = np.array(pairs, dtype=np.int64).reshape(-1, 2).T
    kinds = np.full(len(pairs), KINDS.index("near_duplicate"), dtype=np.int8)
    return built.with_edges(Edges(one, other, kinds, np.ones(len(pairs), dtype=np.float32)))


def embeddings(seed: int) -> Embeddings:
    vector_ND: Embeddings = np.random.default_rng(seed).normal(size=(COUNT, DIMENSION)).astype(np.float32)
    vector_ND[:, 0] += 3
    vector_ND /= np.linalg.norm(vector_ND, axis=1, keepdims=True)
    return vector_ND


IMAGE_ND, TEXT_ND = embeddings(0), embeddings(1)
SIDES = {"image": IMAGE_ND, "text": TEXT_ND}


def positive_score(anchor: int, direction: str) -> float:
    if direction != "image_to_image":
        return float(IMAGE_ND[anchor] @ TEXT_ND[anchor])
    mates = [other for other in range(COUNT) if other % 20 == anchor % 20 and other != anchor]
    return min(float(IMAGE_ND[anchor] @ IMAGE_ND[other]) for other in mates)


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_negatives_match_nested_loops(direction: str) -> None:
    config = MiningConfig(
        num_negatives=5, range_min=2, range_max=30, relative_margin=0.1, absolute_margin=0.06, near_duplicate_bits=None
    )
    found = mine_negatives(IMAGE_ND, TEXT_ND, relations(), config, seed=0)[direction]
    query, candidate = (SIDES[side] for side in direction.split("_to_"))
    counted = dict.fromkeys(("absolute_margin", "relative_margin", "range_min"), 0)
    for i in range(COUNT):
        positive = positive_score(i, direction)
        scores = {j: float(query[i] @ candidate[j]) for j in range(COUNT) if j % 20 != i % 20}
        pool = sorted(scores, key=lambda j: -scores[j])[:30]
        wide = [j for j in pool if scores[j] <= positive - 0.06]
        left = [j for j in wide if scores[j] <= 0.9 * positive]
        counted["absolute_margin"] += len(pool) - len(wide)
        counted["relative_margin"] += len(wide) - len(left)
        counted["range_min"] += len(left[:2])
        expected = (left[2:7] + [-1] * 5)[:5]
        assert found.indices_NK[i].tolist() == expected
        np.testing.assert_allclose(found.scores_NK[i], [scores[j] if j >= 0 else 0 for j in expected], atol=1e-6)
        assert found.positive_N[i] == pytest.approx(positive, abs=1e-6)
    assert found.skipped == counted
    assert min(counted.values()) > 0
    assert found.indices_NK.dtype == np.int32


def test_a_paired_item_is_no_negative_and_counts_as_positive_image() -> None:
    config = MiningConfig(num_negatives=20, relative_margin=None, near_duplicate_bits=None)
    alone = mine_negatives(IMAGE_ND, TEXT_ND, relations(), config, seed=0)
    paired = mine_negatives(IMAGE_ND, TEXT_ND, relations((0, 1)), config, seed=0)
    assert any(1 in alone[direction].indices_NK[0] for direction in DIRECTIONS)
    assert not any(1 in paired[direction].indices_NK[0] for direction in DIRECTIONS)
    expected = min(positive_score(0, "image_to_image"), float(IMAGE_ND[0] @ IMAGE_ND[1]))
    assert paired["image_to_image"].positive_N[0] == pytest.approx(expected, abs=1e-6)


def test_an_image_without_a_known_positive_image_takes_the_median_and_all_alone_their_text() -> None:
    config = MiningConfig(near_duplicate_bits=None)
    one_pair = mine_negatives(IMAGE_ND, TEXT_ND, relations((3, 4), groups=COUNT), config, seed=0)["image_to_image"]
    np.testing.assert_allclose(one_pair.positive_N, float(IMAGE_ND[3] @ IMAGE_ND[4]), atol=1e-6)
    alone = mine_negatives(IMAGE_ND, TEXT_ND, relations(groups=COUNT), config, seed=0)["image_to_image"]
    np.testing.assert_allclose(alone.positive_N, (IMAGE_ND * TEXT_ND).sum(axis=1), atol=1e-6)


@pytest.mark.parametrize("sampling", ["random", "softmax"])
def test_sampling_is_seeded_and_draws_from_the_candidates_hardest_first(sampling: str) -> None:
    config = MiningConfig(num_negatives=3, range_max=12, relative_margin=None, near_duplicate_bits=None)
    top = mine_negatives(IMAGE_ND, TEXT_ND, relations(), config.model_copy(update={"num_negatives": 12}), seed=0)
    drawn_config = config.model_copy(update={"sampling": sampling})
    drawn, again, other = (mine_negatives(IMAGE_ND, TEXT_ND, relations(), drawn_config, seed=n) for n in (5, 5, 6))
    for direction in DIRECTIONS:
        found = drawn[direction]
        np.testing.assert_array_equal(found.indices_NK, again[direction].indices_NK)
        assert (found.indices_NK != other[direction].indices_NK).any()
        assert (np.diff(found.scores_NK, axis=1) <= 0).all()
        for row, own in enumerate(found.indices_NK.tolist()):
            assert len(set(own)) == 3
            assert set(own) <= set(top[direction].indices_NK[row].tolist())


def test_softmax_prefers_what_is_hard_and_random_does_not() -> None:
    config = MiningConfig(num_negatives=1, range_max=2, relative_margin=None, near_duplicate_bits=None)
    first = {}
    for sampling in ("random", "softmax"):
        chosen = config.model_copy(update={"sampling": sampling})
        lists = neighbour_lists(IMAGE_ND, TEXT_ND, relations(), 2)
        scores_NK = lists.by_direction["text_to_image"].scores_QK
        scores_NK[:] = [0.5, 0.5 - 0.07 * np.log(9)]  # nine to one
        draws = [mine_negatives(IMAGE_ND, TEXT_ND, relations(), chosen, seed=n, lists=lists) for n in range(20)]
        found = np.stack([each["text_to_image"].scores_NK[:, 0] for each in draws])
        first[sampling] = float((found == 0.5).mean())
    assert first["random"] == pytest.approx(0.5, abs=0.06)
    assert first["softmax"] == pytest.approx(0.9, abs=0.04)


def test_batches_take_each_negative_once_the_hardest_of_each_direction_first() -> None:
    def negatives(indices: list[list[int]]) -> Negatives:
        indices_NK = np.array(indices, dtype=np.int32)
        return Negatives(indices_NK, np.zeros(indices_NK.shape, np.float32), np.zeros(2, np.float32), {})

    a, b = negatives([[7, 3, 5], [-1, -1, -1]]), negatives([[3, 9], [4, -1]])
    assert batch_negatives({"a": a, "b": b}).tolist() == [[7, 3, 9, 5, -1], [4, -1, -1, -1, -1]]
    assert batch_negatives({"a": a}).dtype == np.int32


def test_negatives_written_as_pairs_come_back_as_they_were() -> None:
    config = MiningConfig(num_negatives=5, range_max=8, near_duplicate_bits=None)
    found = mine_negatives(IMAGE_ND, TEXT_ND, relations(), config, seed=0)["text_to_image"]
    anchors, places = np.nonzero(found.indices_NK >= 0)
    assert 0 < len(anchors) < found.indices_NK.size
    order = np.argsort(places, kind="stable")
    anchors, places = anchors[order], places[order]
    others, scores = found.indices_NK[anchors, places], found.scores_NK[anchors, places]
    again = Negatives.of_pairs(anchors, others, scores, COUNT)
    np.testing.assert_array_equal(again.indices_NK, found.indices_NK)
    np.testing.assert_array_equal(again.scores_NK, found.scores_NK)


def test_a_range_without_room_is_refused() -> None:
    with pytest.raises(ValidationError, match="raise range_max"):
        MiningConfig(num_negatives=4, range_min=2, range_max=5)
