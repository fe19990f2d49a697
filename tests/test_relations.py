import numpy as np
import pytest

from pairloom.models.batches.relations import KINDS, Edges, Relations, normalize_text

GROUPS = ["a", "a", None, "b", None, "b", None]
TEXTS = [["Red  Apple"], ["x", "fruit"], ["red apple", "No photo"], ["no PHOTO"], ["ﬁsh"], ["fish", "Fish"], ["z"]]
PIXELS = ["p", "q", "r", "s", "q", "t", "t"]


def build() -> Relations:
    return Relations.build([str(number) for number in range(7)], GROUPS, TEXTS, PIXELS)


def related(i: int, j: int, kind: str) -> bool:
    if kind == "group":
        return GROUPS[i] is not None and GROUPS[i] == GROUPS[j]
    if kind == "pixels":
        return PIXELS[i] == PIXELS[j]
    return bool({normalize_text(text) for text in TEXTS[i]} & {normalize_text(text) for text in TEXTS[j]})


def test_positive_mask_matches_nested_loops() -> None:
    rows, columns = np.array([3, 0, 6]), np.array([6, 5, 4, 3, 2, 1, 0, 0])
    expected = [[i == j or any(related(i, j, kind) for kind in KINDS[:3]) for j in columns] for i in rows]
    assert build().positive_mask(rows, columns).tolist() == expected


def test_positives_are_not_handed_on() -> None:
    mask = build().positive_mask(np.arange(7), np.arange(7))
    assert mask[0, 2]
    assert mask[2, 3]
    assert not mask[0, 3]


def test_text_mask_matches_nested_loops() -> None:
    relations = build()
    assert relations.texts == ("red apple", "x", "fruit", "no PHOTO", "ﬁsh", "z")
    texts = np.array([5, 0, 3, 3, 1, 4, 2])
    expected = [
        [
            any(
                (i == j or related(i, j, "group") or related(i, j, "pixels"))
                and normalize_text(relations.texts[t]) in [normalize_text(text) for text in TEXTS[j]]
                for j in range(7)
            )
            for t in texts
        ]
        for i in range(7)
    ]
    assert relations.text_mask(np.arange(7), texts).tolist() == expected


def test_positive_pairs_match_nested_loops() -> None:
    pairs = build().positive_pairs(max_per_anchor=10)
    expected = [
        (i, j, next(kind for kind in KINDS[:3] if related(i, j, kind)))
        for i in range(7)
        for j in range(7)
        if i != j and any(related(i, j, kind) for kind in KINDS[:3])
    ]
    found = zip(pairs.anchors_M.tolist(), pairs.positives_M.tolist(), pairs.kinds_M.tolist(), strict=True)
    assert [(i, j, KINDS[kind]) for i, j, kind in found] == expected


def test_positive_pairs_are_capped_for_every_anchor() -> None:
    relations = Relations.build([str(n) for n in range(50)], ["g"] * 50, [[str(n)] for n in range(50)], [None] * 50)
    pairs = relations.positive_pairs(max_per_anchor=3)
    assert np.bincount(pairs.anchors_M).tolist() == [3] * 50
    assert np.bincount(pairs.positives_M).tolist() == [3] * 50


def test_columns_of_different_length_are_refused() -> None:
    with pytest.raises(ValueError, match="differ in length: 1, 2, 1, 1"):
        Relations.build(["a"], [None, None], [["t"]], [None])


PAIRED = {(0, 6): ("given", 0.5), (1, 3): ("near_duplicate", 1.0), (1, 0): ("given", 3.0), (3, 4): ("given", 0.25)}


def paired() -> Relations:
    """`build` with added pairs, one of them twice with different weights, one between items of a group."""
    listed = [(3, 1, "given", 0.75), *((i, j, kind, weight) for (i, j), (kind, weight) in PAIRED.items())]
    edges = Edges(
        np.array([i for i, _, _, _ in listed]),
        np.array([j for _, j, _, _ in listed]),
        np.array([KINDS.index(kind) for _, _, kind, _ in listed], dtype=np.int8),
        np.array([weight for _, _, _, weight in listed], dtype=np.float32),
    )
    return build().with_edges(edges)


def pair_weight(i: int, j: int) -> float:
    shared = i == j or any(related(i, j, kind) for kind in KINDS[:3])
    return max([float(shared), *(weight for pair, (_, weight) in PAIRED.items() if set(pair) == {i, j})])


def test_added_pairs_are_positives_and_not_handed_on() -> None:
    rows, columns = np.array([6, 0, 3, 1, 4]), np.array([0, 1, 2, 3, 4, 5, 6, 0])
    mask = paired().positive_mask(rows, columns)
    assert mask.tolist() == [[pair_weight(i, j) > 0 for j in columns] for i in rows]


def test_targets_of_added_pairs_match_nested_loops() -> None:
    relations, texts = paired(), np.array([5, 0, 3, 3, 1, 4, 2])
    base = build().text_mask(np.arange(7), texts)
    expected = [
        [
            max(
                [float(base[i, place])]
                + [
                    weight
                    for pair, (_, weight) in PAIRED.items()
                    if i in pair and t in relations.item_texts[sum(pair) - i]
                ]
            )
            for place, t in enumerate(texts)
        ]
        for i in range(7)
    ]
    assert relations.text_targets(np.arange(7), texts).toarray().tolist() == expected
    assert relations.text_mask(np.arange(7), texts).tolist() == [[weight > 0 for weight in row] for row in expected]


def test_listed_pairs_carry_their_weight_and_first_kind() -> None:
    pairs = paired().positive_pairs(max_per_anchor=10)
    listed = zip(pairs.anchors_M, pairs.positives_M, pairs.kinds_M, pairs.weights_M, strict=True)
    found = {(int(i), int(j)): (KINDS[kind], float(weight)) for i, j, kind, weight in listed}
    assert {pair: weight for pair, (_, weight) in found.items()} == {
        (i, j): pair_weight(i, j) for i in range(7) for j in range(7) if i != j and pair_weight(i, j) > 0
    }
    assert found[0, 1] == found[1, 0] == ("group", 3.0)
    assert found[1, 3] == found[3, 1] == ("near_duplicate", 1.0)
    assert found[6, 0] == ("given", 0.5)


def test_a_pair_without_weight_is_refused() -> None:
    one, other = np.array([0]), np.array([1])
    with pytest.raises(ValueError, match="a weight above 0"):
        build().with_edges(Edges(one, other, np.zeros(1, np.int8), np.zeros(1, np.float32)))
