import math

import numpy as np
import pytest

from pairloom.models.batches.relations import Relations
from pairloom.models.evaluation import metrics
from pairloom.models.evaluation.bootstrap import median
from pairloom.models.evaluation.config import EvaluationConfig
from pairloom.models.evaluation.metrics import column_slices, evaluate, novelty_slices

COUNT = 40
TEXTS = [[f"name {number // 2}", f"other {number % 7}"] for number in range(COUNT)]
GROUPS = [str(number % 13) if number % 3 else None for number in range(COUNT)]
COLOURS = [["red", "blue", None][number % 3] for number in range(COUNT)]


def relations() -> Relations:
    return Relations.build([str(n) for n in range(COUNT)], GROUPS, TEXTS, [None] * COUNT)


def embeddings(count: int, seed: int) -> np.ndarray:
    # Few different values, so that there are many ties.
    return np.random.default_rng(seed).integers(-1, 2, size=(count, 3)).astype(np.float32)


def naive(score: list[float], positive: list[bool], candidate: list[bool]) -> tuple[int, float, float]:
    """Rank of the best positive, average precision at R, nDCG at 10, by sorting everything."""
    # Worst first among equals: negatives before positives.
    order = sorted((c for c in range(len(score)) if candidate[c]), key=lambda c: (-score[c], positive[c]))
    hits = [positive[c] for c in order]
    total = sum(hits)
    precision = sum(sum(hits[: at + 1]) / (at + 1) for at in range(total) if hits[at]) / total
    gain = sum(1 / math.log2(at + 2) for at in range(min(10, len(hits))) if hits[at])
    return hits.index(True), precision, gain / sum(1 / math.log2(at + 2) for at in range(min(10, total)))


def test_chunked_metrics_match_sorting_every_candidate(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics, "BLOCK", 100)
    known = relations()
    image_ND, text_TD = embeddings(COUNT, 0), embeddings(len(known.texts), 1)
    slices = column_slices(known, {"colour": COLOURS})
    found = evaluate(image_ND, text_TD, known, EvaluationConfig(k=(1, 3)), slices)

    positive_NT = known.text_mask(np.arange(COUNT), np.arange(len(known.texts)))
    positive_NN = known.positive_mask(np.arange(COUNT), np.arange(COUNT))
    other_NN = known.pixels_N[:, None] != known.pixels_N[None, :]
    for direction, score, positive, candidate in (
        ("text_to_image", text_TD @ image_ND.T, positive_NT.T, np.ones_like(positive_NT.T)),
        ("image_to_text", image_ND @ text_TD.T, positive_NT, np.ones_like(positive_NT)),
        ("image_to_image", image_ND @ image_ND.T, positive_NN & other_NN, other_NN),
    ):
        asked = np.flatnonzero(positive.any(axis=1))
        expected = [naive(score[q].tolist(), positive[q].tolist(), candidate[q].tolist()) for q in asked]
        answers = found.answers[direction]
        assert answers.queries_Q.tolist() == asked.tolist()
        for own, want in zip(
            (answers.rank_Q, answers.average_precision_Q, answers.ndcg_Q), zip(*expected, strict=True), strict=True
        ):
            np.testing.assert_allclose(own, want)
        ranks = [rank for rank, _, _ in expected]
        values = found.as_dict()
        assert values[f"{direction}_recall@3"] == pytest.approx(np.mean([rank < 3 for rank in ranks]))
        assert values[f"{direction}_median_rank"] == 1 + sorted(ranks)[(len(ranks) - 1) // 2]
        if direction != "text_to_image":
            red = [rank < 1 for rank, q in zip(ranks, asked, strict=True) if COLOURS[q] == "red"]
            assert values[f"{direction}_recall@1/colour=red"] == pytest.approx(np.mean(red))
    assert "text_to_image_ndcg@10/colour=blue" in values


def test_copies_of_an_image_are_no_candidates_of_its_query() -> None:
    known = Relations.build(["a", "copy", "b"], ["g", "g", "g"], [["x"], ["y"], ["z"]], ["same", "same", "other"])
    found = evaluate(embeddings(3, 0), embeddings(3, 1), known, EvaluationConfig(), {})
    assert found.as_dict()["image_to_image_recall@1"] == 1.0
    alone = Relations.build(["a", "copy"], ["g", "g"], [["x"], ["y"]], ["same", "same"])
    assert "image_to_image" not in evaluate(embeddings(2, 0), embeddings(2, 1), alone, EvaluationConfig(), {}).answers


def test_novel_texts_and_groups_are_slices_of_their_own() -> None:
    known = Relations.build(["a", "b", "c"], ["g", "h", None], [["Red"], ["blue"], ["green"]], [None] * 3)
    found = novelty_slices(known, ["g", "h", None], {"red"}, {"g"})
    assert found["novel_text=yes"].text_queries_T.tolist() == [False, True, True]
    assert found["novel_text=no"].text_queries_T.tolist() == [True, False, False]
    assert found["novel_group=yes"].image_queries_N.tolist() == [False, True, False]
    assert found["novel_group=no"].text_queries_T.tolist() == [True, False, False]


def test_intervals_match_resampling_the_queries_one_by_one() -> None:
    known = relations()
    config = EvaluationConfig(k=(3,))
    slices = column_slices(known, {"colour": COLOURS})
    found = evaluate(embeddings(COUNT, 0), embeddings(len(known.texts), 1), known, config, slices)
    intervals = found.intervals(config)
    assert intervals == found.intervals(config)
    assert set(intervals) == set(found.as_dict())
    random = np.random.default_rng(1)
    answers = found.answers["text_to_image"]
    for name, values_Q, statistic, tolerance in (
        ("map@r", answers.average_precision_Q, np.mean, 0.02),
        ("median_rank", answers.rank_Q + 1.0, median, 0.0),
    ):
        drawn = [statistic(random.choice(values_Q, len(values_Q))) for _ in range(4000)]
        expected = np.quantile(drawn, [0.025, 0.975])
        np.testing.assert_allclose(intervals[f"text_to_image_{name}"], expected, atol=tolerance)


def test_equal_scores_for_everything_are_no_success() -> None:
    known = relations()
    same = evaluate(
        np.ones((COUNT, 2), np.float32), np.ones((len(known.texts), 2), np.float32), known, EvaluationConfig(k=(1,)), {}
    )
    assert {value for name, value in same.as_dict().items() if "_recall@" in name} == {0.0}


def test_embeddings_of_the_wrong_length_are_refused() -> None:
    with pytest.raises(ValueError, match="39 image"):
        evaluate(embeddings(39, 0), embeddings(3, 0), relations(), EvaluationConfig(), {})
