"""Orders made of scores: diversity and fusion against plain loops, and copies told from look-alikes."""

import io

import numpy as np
import pytest
from PIL import Image, ImageDraw

from pairloom.search.diversity import diversified
from pairloom.search.duplicates import folded
from pairloom.search.fusion import fused


def scaled(value: float, values: list[float]) -> float:
    low, high = min(values), max(values)
    return (value - low) / (high - low) if high > low else 0


@pytest.mark.parametrize("diversity", [0, 0.2, 0.5, 0.9, 1])
@pytest.mark.parametrize("seed", range(5))
def test_diversity_chooses_as_a_plain_loop_does(diversity: float, seed: int) -> None:
    random = np.random.default_rng(seed)
    vectors = random.normal(size=(12, 4)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    scores = np.round(random.random(12), 2)
    alike = vectors.astype(np.float64) @ vectors.T.astype(np.float64)
    others = [alike[one, other] for one in range(12) for other in range(12) if one != other]
    left, chosen = list(range(12)), list[int]()
    while left:
        worth = [
            (1 - diversity) * scaled(scores[at], scores.tolist())
            - diversity * max((np.clip(scaled(alike[at, each], others), 0, 1) for each in chosen), default=0)
            for at in left
        ]
        first = max(left, key=lambda at: scores[at]) if not chosen else left[int(np.argmax(np.round(worth, 9)))]
        chosen.append(first)
        left.remove(first)
    assert diversified(scores, vectors, diversity).tolist() == chosen


def test_no_diversity_leaves_the_order_of_the_scores() -> None:
    scores = np.array([0.9, 0.9, 0.5, 0.1])
    assert diversified(scores, np.eye(4, dtype=np.float32), 0).tolist() == [0, 1, 2, 3]
    assert diversified(scores[:0], np.empty((0, 1), np.float32), 0.5).tolist() == []


def test_fusion_adds_up_the_reciprocals_of_the_ranks() -> None:
    found = fused([["a", "b", "c"], ["c", "a", "d"]])
    assert found == {
        "a": round(1 / 61 + 1 / 62, 6),
        "c": round(1 / 63 + 1 / 61, 6),
        "b": round(1 / 62, 6),
        "d": round(1 / 63, 6),
    }
    assert list(found) == ["a", "c", "b", "d"]
    assert list(fused([["a"], ["b"]])) == ["b", "a"]
    assert fused([]) == fused([[], []]) == {}


def drawn(mouth: tuple[int, int], quality: int) -> bytes:
    face = Image.new("RGB", (96, 96), "yellow")
    ImageDraw.Draw(face).arc((24, 30, 72, 78), *mouth, fill="black", width=4)
    out = io.BytesIO()
    face.save(out, "WEBP", quality=quality)
    return out.getvalue()


def test_copies_that_were_encoded_anew_are_folded_and_look_alikes_are_not() -> None:
    smile, again, frown = drawn((20, 160), 90), drawn((20, 160), 60), drawn((200, 340), 90)
    one = np.tile(np.array([1, 0], np.float32), (5, 1))
    assert folded(one, [smile, frown, again, frown, smile]).tolist() == [0, 1, 0, 1, 0]
    apart = np.array([[1, 0], [0, 1]], np.float32)
    assert folded(apart, [smile, smile]).tolist() == [0, 1]
    assert folded(one[:0], []).tolist() == []
