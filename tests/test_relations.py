import numpy as np
import pytest

from models.relations import KINDS, Relations, normalize_text

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
    expected = [[i == j or any(related(i, j, kind) for kind in KINDS) for j in columns] for i in rows]
    assert build().positive_mask(rows, columns).tolist() == expected


def test_positives_are_not_handed_on() -> None:
    mask = build().positive_mask(np.arange(7), np.arange(7))
    assert mask[0, 2]
    assert mask[2, 3]
    assert not mask[0, 3]


def test_text_mask_matches_nested_loops() -> None:
    relations = build()
    assert relations.texts == ("Red  Apple", "x", "fruit", "No photo", "ﬁsh", "z")
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
        (i, j, next(kind for kind in KINDS if related(i, j, kind)))
        for i in range(7)
        for j in range(7)
        if i != j and any(related(i, j, kind) for kind in KINDS)
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
