"""How well a score tells that nothing fits: queries whose concept is served, and the same with all of it left out.

    python -m benchmarks.fits s0/emoji s1/emoji s2/emoji s0/grocery s1/grocery s2/grocery

The folders are those of pipelines with a release; folders of one name are the seeds of one pipeline. Each rule makes a
number of a query and what it is near to. Its cut-off is the lowest that at most a share of 0.05 of half of the
validation texts reach, all items of their own groups left out. What follows is measured on the other half of the
validation texts, on the test texts and on the training texts; likewise with halves of the validation images. `true` is
the share of queries that reach it with their own items there and have one of them among the ten nearest, `false` the
share that reaches it without them. Keywords are words that are no item's text. In a hybrid search, an item fits as well
where it is called what the query says (`search.fitting.called`); the texts asked being the items' own, `true` is
then whatever its finder makes it, and `false` and the keywords are what to look at.
"""

import argparse
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from benchmarks.served import Asked, Served, say, seeds
from pairloom.models.arrays import Mask, Values
from pairloom.models.evaluation.hubness import hubness
from pairloom.models.towers.words import known_words
from pairloom.search.fitting import called, unaccented

MAX_FALSE = 0.05


@dataclass(frozen=True)
class Scene:
    """What queries are near to: scores, -inf where an item is left out, and what else rules know."""

    score_QN: Values
    hubness_N: npt.NDArray[np.float32]
    scale: float
    unmet_Q: Mask
    """Whether a word of the query is in no training text."""
    called_QN: Mask
    """Which items a hybrid search finds fitting by their words; none that is left out."""


def _sorted(scene: Scene) -> Values:
    return -np.sort(-scene.score_QN, axis=1)


def _margin(scene: Scene, count: int) -> Values:
    best_QN = _sorted(scene)
    margin_Q: Values = best_QN[:, 0] - best_QN[:, 1 : 1 + count].mean(axis=1)
    return margin_Q


def _softmax(scene: Scene) -> Values:
    top_Q = scene.score_QN.max(axis=1, keepdims=True)
    share_Q: Values = 1 / np.exp(scene.scale * (scene.score_QN - top_Q)).sum(axis=1)
    return share_Q


def _corrected(scene: Scene) -> Values:
    top_Q: Values = (2 * scene.score_QN - scene.hubness_N).max(axis=1)
    return top_Q


def _cosine(scene: Scene) -> Values:
    top_Q: Values = scene.score_QN.max(axis=1)
    return top_Q


def _standard(scene: Scene) -> Values:
    told_QN = 2 * scene.score_QN - scene.hubness_N
    seen_QN = np.ma.masked_invalid(told_QN)
    standard_Q: Values = np.asarray((seen_QN.max(axis=1) - seen_QN.mean(axis=1)) / seen_QN.std(axis=1))
    return standard_Q


CHOSEN = "2 · cosine − hubness"
HYBRID = f"{CHOSEN}, hybrid"
RULES: dict[str, Callable[[Scene], Values]] = {
    "cosine of the nearest": _cosine,
    CHOSEN: _corrected,
    "the same, in standard deviations over all": _standard,
    "the same + nearest − mean of the next 100": lambda scene: _corrected(scene) + _margin(scene, 100),
    "the same − 0.2 where a word is unmet": lambda scene: _corrected(scene) - 0.2 * scene.unmet_Q,
    "nearest − mean of the next 10": lambda scene: _margin(scene, 10),
    "nearest − mean of the next 50": lambda scene: _margin(scene, 50),
    "softmax at logit_scale": _softmax,
    "cosine, all words met": lambda scene: np.where(scene.unmet_Q, -np.inf, _cosine(scene)),
}


def scenes(served: Served, asked: Asked, words: set[str]) -> tuple[Scene, Scene]:
    """With the queries' own items, and without."""
    score_QN = (asked.query_QD @ served.image_ND.T).astype(np.float64)
    if asked.out_QN is not None:
        score_QN[asked.out_QN] = -np.inf
    network = served.release.encoder.dual_encoder.network
    scale = math.exp(network.get_parameter("logit_scale").item())
    hubness_N = hubness(served.image_ND, served.training_embeddings)
    strange = [[word for word in known_words(name) if word not in words] for name in asked.names]
    unmet_Q = np.array([bool(some) for some in strange])
    called_QN = np.zeros((len(asked.names), len(served.rows)), bool)
    if asked.out_QN is None:  # images say nothing
        for query, (name, some) in enumerate(zip(asked.names, strange, strict=True)):
            rows = sorted(set().union(*(served.saying[word] for word in known_words(unaccented(name)))))
            called_QN[query, rows] = called(name, some, [served.rows[row]["texts"] for row in rows])
    left_QN = np.where(asked.own_QN, -np.inf, score_QN)
    return (
        Scene(score_QN, hubness_N, scale, unmet_Q, called_QN),
        Scene(left_QN, hubness_N, scale, unmet_Q, called_QN & ~asked.own_QN),
    )


def measured(served: Served) -> dict[str, dict[str, float]]:
    """By rule: true and false finds of each kind of queries."""
    val = served.texts("val")
    kinds = {"val": val[1::2]} | {split: served.texts(split) for split in served.splits if split != "val"}
    asked = {kind: served.asked(texts) for kind, texts in kinds.items()}
    keywords = served.keywords()
    found = judged(served, served.asked(val[::2]), asked | ({"keywords": keywords} if keywords.names else {}))
    images = judged(served, served.asked_images("val", 0), {"val images": served.asked_images("val", 1)})
    return {name: own | (images[name] if name in RULES else {}) for name, own in found.items()}


def judged(served: Served, calibrating: Asked, asked: Mapping[str, Asked]) -> dict[str, dict[str, float]]:
    """By rule: true and false finds at the cut-off that some queries give."""
    words = {word for text in served.texts("train") for word in known_words(text)}
    seen = {kind: scenes(served, each, words) for kind, each in asked.items()}
    _, without = scenes(served, calibrating, words)
    found: dict[str, dict[str, float]] = {}
    hybrid: dict[str, float] = {}
    for name, rule in RULES.items():
        absent_Q = np.sort(rule(without))[::-1]
        cutoff = absent_Q[int(len(absent_Q) * MAX_FALSE)]
        found[name] = {}
        for kind in asked:
            there, absent = seen[kind]
            ten_QK = np.argsort(-there.score_QN, axis=1)[:, :10]
            right_Q = np.take_along_axis(asked[kind].own_QN, ten_QK, axis=1).any(axis=1)
            true_Q, false_Q = (rule(there) > cutoff) & right_Q, rule(absent) > cutoff
            found[name] |= {f"{kind} true": float(true_Q.mean()), f"{kind} false": float(false_Q.mean())}
            if name == CHOSEN:
                true_Q |= (there.called_QN & asked[kind].own_QN).any(axis=1)
                false_Q |= absent.called_QN.any(axis=1)
                hybrid[f"{kind} true"], hybrid[f"{kind} false"] = float(true_Q.mean()), float(false_Q.mean())
    return found | {HYBRID: hybrid}


def mean(found: list[dict[str, dict[str, float]]], rule: str) -> Mapping[str, float]:
    """Over the seeds."""
    return {name: float(np.mean([each[rule][name] for each in found])) for name in found[0][rule]}


def main() -> None:
    """Print a table of means over the seeds for each pipeline."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", type=Path)
    for name, releases in seeds(parser.parse_args().folders):
        found = [measured(each) for each in releases]
        columns = list(found[0][next(iter(RULES))])
        say(f"\n| {name}, {len(found)} seeds | {' | '.join(columns)} |")
        say("| --- |" + " --- |" * len(columns))
        for rule in found[0]:
            values = mean(found, rule)
            told = (f"{values[each]:.3f}" if each in values else "" for each in columns)
            say(f"| {rule} | {' | '.join(told)} |")


if __name__ == "__main__":
    main()
