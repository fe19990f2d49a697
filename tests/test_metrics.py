import numpy as np
import pytest

from models import metrics
from models.metrics import EvaluationConfig, evaluate
from models.relations import Relations

COUNT = 40
TEXTS = [[f"name {number // 2}", f"other {number % 7}"] for number in range(COUNT)]
GROUPS = [str(number % 13) if number % 3 else None for number in range(COUNT)]
COLOURS = [["red", "blue", None][number % 3] for number in range(COUNT)]


def relations() -> Relations:
    return Relations.build([str(n) for n in range(COUNT)], GROUPS, TEXTS, [None] * COUNT)


def embeddings(count: int, seed: int) -> np.ndarray:
    # Few different values, so that there are many ties.
    return np.random.default_rng(seed).integers(-1, 2, size=(count, 3)).astype(np.float32)


def test_chunked_recall_matches_full_matrix(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics, "BLOCK", 100)
    known = relations()
    image_ND, text_TD = embeddings(COUNT, 0), embeddings(len(known.texts), 1)
    config = EvaluationConfig(k=(1, 3), slices=("colour",))
    found = evaluate(image_ND, text_TD, known, config, {"colour": COLOURS}).as_dict()

    positive_NT = known.text_mask(np.arange(COUNT), np.arange(len(known.texts)))
    ranks: dict[str, list[int]] = {"text_to_image": [], "image_to_text": []}
    for direction, score, positive in (
        ("text_to_image", text_TD @ image_ND.T, positive_NT.T),
        ("image_to_text", image_ND @ text_TD.T, positive_NT),
    ):
        for own, mask in zip(score.tolist(), positive.tolist(), strict=True):
            # Worst first among equals: negatives before positives.
            order = sorted(range(len(own)), key=lambda c: (-own[c], mask[c]))
            ranks[direction].append(next(rank for rank, c in enumerate(order) if mask[c]))
    for k in (1, 3):
        for direction, own in ranks.items():
            assert found[f"{direction}_recall@{k}"] == pytest.approx(np.mean([rank < k for rank in own]))
        red = [rank < k for rank, colour in zip(ranks["image_to_text"], COLOURS, strict=True) if colour == "red"]
        assert found[f"image_to_text_recall@{k}/colour=red"] == pytest.approx(np.mean(red))
    assert "text_to_image_recall@1/colour=blue" in found


def test_equal_scores_for_everything_are_no_success() -> None:
    known = relations()
    same = evaluate(
        np.ones((COUNT, 2), np.float32), np.ones((len(known.texts), 2), np.float32), known, EvaluationConfig(k=(1,)), {}
    )
    assert set(same.as_dict().values()) == {0.0}


def test_embeddings_of_the_wrong_length_are_refused() -> None:
    with pytest.raises(ValueError, match="39 image"):
        evaluate(embeddings(39, 0), embeddings(3, 0), relations(), EvaluationConfig(), {})
