import itertools
import json
import math
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from pairloom.models.batches.relations import Relations, normalize_text
from pairloom.models.evaluation import bootstrap, ranking
from pairloom.models.evaluation.bootstrap import median
from pairloom.models.evaluation.config import EvaluationConfig, measured
from pairloom.models.evaluation.metrics import RetrievalMetrics, column_slices, evaluate, novelty_slices
from pairloom.models.evaluation.similarity import TIE

COUNT = 40
TEXTS = [[f"name {number // 2}", f"other {number % 7}"] for number in range(COUNT)]
GROUPS = [str(number % 13) if number % 3 else None for number in range(COUNT)]
COLOURS = [["red", "blue", None][number % 3] for number in range(COUNT)]


def relations() -> Relations:
    return Relations.build([str(n) for n in range(COUNT)], GROUPS, TEXTS, [None] * COUNT)


def embeddings(count: int, seed: int) -> np.ndarray:
    # Few different values, so that there are many ties.
    return np.random.default_rng(seed).integers(-1, 2, size=(count, 3)).astype(np.float32)


def narrow(count: int, seed: int) -> np.ndarray:
    """Embeddings in a cone so narrow that about as many scores are within a tolerance as are apart, on the grid."""
    spread = np.array([TIE / 2, 4 * TIE])[np.arange(count) % 2, None]
    near = np.array([0.6, 0.64, -0.48]) + spread * np.random.default_rng(seed).standard_normal((count, 3))
    return (np.rint(near * 2**24) / 2**24).astype(np.float32)


def uneven(count: int, seed: int) -> np.ndarray:
    """Embeddings a few tolerances apart with large and small parts, whose products float64 can't add up unrounded."""
    size_D = np.random.default_rng(0).standard_normal(48) ** 5
    side = size_D * (1 + 8 * TIE**0.5 * np.random.default_rng(seed).standard_normal((count, 48)))
    unit: np.ndarray = side / np.linalg.norm(side, axis=1, keepdims=True)
    return unit.astype(np.float32)


def naive(score: list[float], positive: list[bool], candidate: list[bool]) -> tuple[int, float, float]:
    """Rank of the best positive, average precision at R, nDCG at 10, by sorting everything."""
    # Worst first among equals: negatives before positives.
    order = sorted((c for c in range(len(score)) if candidate[c]), key=lambda c: (-score[c], positive[c]))
    return of_order([positive[c] for c in order])


def of_order(hits: list[bool]) -> tuple[int, float, float]:
    total = sum(hits)
    precision = sum(sum(hits[: at + 1]) / (at + 1) for at in range(total) if hits[at]) / total
    gain = sum(1 / math.log2(at + 2) for at in range(min(10, len(hits))) if hits[at])
    return hits.index(True), precision, gain / sum(1 / math.log2(at + 2) for at in range(min(10, total)))


class Question(NamedTuple):
    """What is asked in one direction."""

    direction: str
    asked: list[int]
    """The queries that have a positive, by name."""
    score_QC: np.ndarray
    positive_QC: np.ndarray
    candidate_QC: np.ndarray


def questions(image_ND: np.ndarray, text_TD: np.ndarray, known: Relations) -> list[Question]:
    images, texts = np.arange(len(known)), np.arange(len(known.texts))
    positive_NT, positive_NN = known.text_mask(images, texts), known.positive_mask(images, images)
    other_NN = known.pixels_N[:, None] != known.pixels_N[None, :]
    image_ND, text_TD = image_ND.astype(np.float64), text_TD.astype(np.float64)
    names = {"text": [normalize_text(text) for text in known.texts], "image": known.item_ids}
    found = []
    for direction, score, positive, candidate in (
        ("text_to_image", text_TD @ image_ND.T, positive_NT.T, np.ones_like(positive_NT.T)),
        ("image_to_text", image_ND @ text_TD.T, positive_NT, np.ones_like(positive_NT)),
        ("image_to_image", image_ND @ image_ND.T, positive_NN & other_NN, other_NN),
    ):
        own = names[direction.partition("_")[0]]
        asked = sorted(np.flatnonzero(positive.any(axis=1)).tolist(), key=lambda query: own[query])
        found.append(Question(direction, asked, score, positive, candidate))
    return found


def test_chunked_metrics_match_sorting_every_candidate(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ranking, "BLOCK", 100)
    known = relations()
    image_ND, text_TD = embeddings(COUNT, 0), embeddings(len(known.texts), 1)
    slices = column_slices(known, {"colour": COLOURS})
    hubness_N = (np.arange(COUNT) % 5 / 4).astype(np.float32)
    found = evaluate(image_ND, text_TD, known, EvaluationConfig(k=(1, 3)), slices, hubness_N)

    for direction, asked, score, positive, candidate in questions(image_ND, text_TD, known):
        expected = [naive(score[q].tolist(), positive[q].tolist(), candidate[q].tolist()) for q in asked]
        answers = found.answers[direction]
        assert answers.queries_Q.tolist() == asked
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
        if direction == "text_to_image":
            ranked = 2 * score - hubness_N
            ranks = [naive(ranked[q].tolist(), positive[q].tolist(), candidate[q].tolist())[0] for q in asked]
            values = found.as_dict()
            assert values["text_to_image_corrected_recall@3"] == pytest.approx(np.mean([rank < 3 for rank in ranks]))
            assert values["text_to_image_corrected_recall@3"] != values["text_to_image_recall@3"]
    assert "text_to_image_ndcg@10/colour=blue" in values
    assert "text_to_image_corrected_recall@1/colour=blue" in values
    assert found.intervals(EvaluationConfig(k=(1, 3))).keys() == values.keys()
    whole = {name for name in values if "/" not in name and not name.endswith("_median_rank")}
    assert whole == set(measured(EvaluationConfig(k=(1, 3))))


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


def few() -> Relations:
    return Relations.build(
        list("abcdef"), [*"gghhi", None], [["u"], ["v"], ["w"], ["v", "x"], ["y"], ["z"]], [None] * 6
    )


@pytest.mark.parametrize("seed", range(3))
def test_ties_count_as_the_worst_of_all_their_orders(seed: int) -> None:
    known = few()
    image_ND, text_TD = embeddings(6, seed), embeddings(6, seed + 10)
    random = np.random.default_rng(seed)
    noise = [1e-7 * random.uniform(-1, 1, (6, 3)).astype(np.float32) for _ in range(2)]
    found = evaluate(image_ND + noise[0], text_TD + noise[1], known, EvaluationConfig(k=(1, 2)), {})
    for direction, asked, score, positive, candidate in questions(image_ND, text_TD, known):
        answers = found.answers[direction]
        for place, query in enumerate(asked):
            orders = [
                of_order([bool(positive[query, c]) for c in order])
                for order in itertools.permutations(np.flatnonzero(candidate[query]))
                if all(score[query, a] >= score[query, b] for a, b in itertools.pairwise(order))
            ]
            worst = [max(rank for rank, _, _ in orders), min(p for _, p, _ in orders), min(g for _, _, g in orders)]
            own = answers.rank_Q[place], answers.average_precision_Q[place], answers.ndcg_Q[place]
            assert own == pytest.approx(worst)
            assert answers.recall_QR[place].tolist() == [min(rank < k for rank, _, _ in orders) for k in (1, 2)]


def test_metrics_are_the_mean_over_the_tolerances() -> None:
    known = relations()
    image_ND, text_TD = narrow(COUNT, 0), narrow(len(known.texts), 1)
    found, between = evaluate(image_ND, text_TD, known, EvaluationConfig(k=(1, 3)), {}), 0
    for direction, asked, score, positive, candidate in questions(image_ND, text_TD, known):
        answers = found.answers[direction]
        for place, query in enumerate(asked):
            hits = [c for c in range(len(score[query])) if positive[query, c]]
            misses = [c for c in range(len(score[query])) if candidate[query, c] and not positive[query, c]]
            gaps = {score[query, hit] - score[query, miss] for hit in hits for miss in misses}
            edges = sorted({TIE, 2 * TIE, *(gap for gap in gaps if TIE < gap < 2 * TIE)})
            want = np.zeros(5)
            for low, high in itertools.pairwise(edges):
                # Between two gaps the tolerance makes no difference.
                lifted = [
                    score[query, c] + (0 if positive[query, c] else (low + high) / 2) for c in range(len(score[query]))
                ]
                rank, precision, gain = naive(lifted, positive[query].tolist(), candidate[query].tolist())
                want += (high - low) / TIE * np.array([rank, rank < 1, rank < 3, precision, gain])
            own = [
                answers.rank_Q[place],
                *answers.recall_QR[place],
                answers.average_precision_Q[place],
                answers.ndcg_Q[place],
            ]
            np.testing.assert_allclose(own, want, atol=1e-9)
            between += len(edges) > 2
    assert between > 20


def measures(found: RetrievalMetrics) -> tuple[dict[str, float], dict[str, tuple[float, float]]]:
    return found.as_dict(), found.intervals(EvaluationConfig(k=(1, 3)))


@pytest.mark.parametrize("embedded", [embeddings, narrow])
def test_no_metric_depends_on_the_order_of_items_or_texts(embedded: Callable[[int, int], np.ndarray]) -> None:
    # One text has two spellings, of which the order of items must not choose.
    own = [[text.upper() if number == 2 else text for text in texts] for number, texts in enumerate(TEXTS)]
    text_of = {normalize_text(text): text for texts in TEXTS for text in texts}
    vector_of = dict(zip(sorted(text_of), embedded(len(text_of), 1), strict=True))
    image_ND, found = embedded(COUNT, 0), []
    for seed in range(3):
        random = np.random.default_rng(seed)
        order = random.permutation(COUNT) if seed else np.arange(COUNT)
        texts = [own[n] if seed < 2 else own[n][::-1] for n in order]
        known = Relations.build([f"{n:02}" for n in order], [GROUPS[n] for n in order], texts, [None] * COUNT)
        assert set(known.texts) == set(text_of.values())
        text_TD = np.stack([vector_of[normalize_text(text)] for text in known.texts])
        colours = column_slices(known, {"colour": [COLOURS[n] for n in order]})
        found.append(measures(evaluate(image_ND[order], text_TD, known, EvaluationConfig(k=(1, 3)), colours)))
    assert found[0] == found[1] == found[2]  # to the last bit


def test_noise_on_copies_changes_nothing() -> None:
    known = relations()
    random = np.random.default_rng(0)
    # Ten different directions: every image and every text has copies, that are positives or not.
    kinds = random.standard_normal((10, 64))
    kinds /= np.linalg.norm(kinds, axis=1, keepdims=True)
    sides = [kinds[random.integers(10, size=count)].astype(np.float32) for count in (COUNT, len(known.texts))]
    config = EvaluationConfig(k=(1, 3))
    plain = measures(evaluate(sides[0], sides[1], known, config, {}))
    for _ in range(5):
        image_ND, text_TD = (side + 1e-7 * random.standard_normal(side.shape).astype(np.float32) for side in sides)
        assert measures(evaluate(image_ND, text_TD, known, config, {})) == plain


def test_no_metric_moves_further_than_the_scores_did() -> None:
    known = relations()
    image_ND, text_TD = narrow(COUNT, 0), narrow(len(known.texts), 1)
    random, config = np.random.default_rng(2), EvaluationConfig(k=(1, 3, 5))
    moved = [np.rint(side * 2**24 + random.uniform(-4, 4, side.shape)) / 2**24 for side in (image_ND, text_TD)]
    moved_ND, moved_TD = (side.astype(np.float32) for side in moved)
    before = evaluate(image_ND, text_TD, known, config, {})
    after = evaluate(moved_ND, moved_TD, known, config, {})
    asked = zip(questions(image_ND, text_TD, known), questions(moved_ND, moved_TD, known), strict=True)
    for (direction, _, score, _, _), (_, _, moved_score, _, _) in asked:
        bound = 2 * float(np.abs(score - moved_score).max()) / TIE
        assert 0 < bound < 0.2
        for name in ("recall_QR", "average_precision_Q", "ndcg_Q"):
            one, other = (getattr(each.answers[direction], name) for each in (before, after))
            assert np.abs(one - other).max() <= bound + 1e-12
            assert not np.array_equal(one, other)


@pytest.mark.parametrize("block", [1, 50, 1000])
def test_metrics_are_the_same_for_any_size_of_block(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    known, config = relations(), EvaluationConfig(k=(1, 3))
    sides = uneven(COUNT, 0), uneven(len(known.texts), 1)
    found = measures(evaluate(*sides, known, config, {}))
    monkeypatch.setattr(ranking, "BLOCK", block)
    monkeypatch.setattr(bootstrap, "BLOCK", block)
    assert measures(evaluate(*sides, known, config, {})) == found


def scored(images: str, texts: str) -> list[dict[str, Any]]:
    count = 200
    groups, named = [str(n % 13) for n in range(count)], [[str(n // 2)] for n in range(count)]
    known = Relations.build([str(n) for n in range(count)], groups, named, [None] * count)
    found = evaluate(np.load(images), np.load(texts), known, EvaluationConfig(), {})
    told: list[dict[str, Any]] = json.loads(json.dumps([found.as_dict(), found.intervals(EvaluationConfig())]))
    return told


def test_the_same_embeddings_score_the_same_on_any_processor(tmp_path: Path) -> None:
    np.save(tmp_path / "images.npy", uneven(200, 0))
    np.save(tmp_path / "texts.npy", uneven(100, 1))

    files = (str(tmp_path / "images.npy"), str(tmp_path / "texts.npy"))
    here = scored(*files)
    assert 0 < here[0]["image_to_image_recall@10"] < 1
    # The oldest kernels of OpenBLAS and of torch, on one thread.
    oldest = {"OPENBLAS_CORETYPE": "Prescott", "ATEN_CPU_CAPABILITY": "default", "OMP_NUM_THREADS": "1"}
    elsewhere = subprocess.run(
        [
            sys.executable,
            "-c",
            "import sys, json, test_metrics as t; print(json.dumps(t.scored(*sys.argv[1:])))",
            *files,
        ],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), **oldest},
        capture_output=True,
        check=True,
    )
    assert here == json.loads(elsewhere.stdout)


def test_embeddings_that_are_not_finite_are_refused() -> None:
    known = relations()
    image_ND, text_TD = embeddings(COUNT, 0), embeddings(len(known.texts), 1)
    image_ND[[3, 5], 1], text_TD[0] = (np.nan, np.inf), -np.inf
    with pytest.raises(ValueError, match=f"2 of 40 image embeddings and 1 of {len(text_TD)} text embeddings"):
        evaluate(image_ND, text_TD, known, EvaluationConfig(), {})


def test_embeddings_of_the_wrong_length_are_refused() -> None:
    with pytest.raises(ValueError, match="39 image"):
        evaluate(embeddings(39, 0), embeddings(3, 0), relations(), EvaluationConfig(), {})
