"""Whether several scores together tell better that nothing fits than the one that releases go by.

    python -m benchmarks.combined_fits s0/emoji-drawings s1/emoji-drawings s0/grocery s1/grocery

Folders and questions are those of `benchmarks.fits`. Of each query: `top`, the highest 2 · cosine − hubness; `margin`,
the nearest cosine less the mean of the next ten; `spread`, how many standard deviations of all items' cosines the
nearest lies above their mean; `agreement`, the mean cosine of the first five pictures with one another. A logistic
regression weighs them: fitted on half of the validation texts and half of the training texts, with their own items
there (where one is among the ten nearest) and without, each of the four counting alike. The cut-off is the lowest that
at most 0.05 of the validation half reach without their items. All that follows is of queries that nothing was fitted
on.

`ceiling` is the share of queries with one of their own among the ten nearest: no rule finds more. `area` is the chance
that such a query stands above one without its items; `at 0.05` what would be found if the cut-off were known that
just 0.05 of these very queries reach without theirs: an oracle's.
"""

import argparse
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from sklearn.linear_model import LogisticRegression

from benchmarks.fits import MAX_FALSE, Scene, scenes
from benchmarks.served import Asked, Served, say, seeds
from pairloom.models.arrays import Mask, Values
from pairloom.models.towers.words import known_words

# Q = queries, F = features, M = rows that are fitted

FEATURES = ("top", "margin", "spread", "agreement")
RULES = {
    "2 · cosine − hubness": ("top",),
    "with the margin": ("top", "margin"),
    "with the agreement": ("top", "agreement"),
    "with both": ("top", "margin", "agreement"),
    "with all": FEATURES,
}
FIRST = 5
SHRINKING = 3.0
"""How strongly weights are drawn to 0."""


@dataclass(frozen=True)
class Measured:
    """Queries of one kind, with their own items there and without."""

    there_QF: Values
    absent_QF: Values
    right_Q: Mask
    """Whether one of their own is among the ten nearest."""


def features(served: Served, scene: Scene) -> Values:
    """(Q, F)."""
    seen_QN = np.ma.masked_invalid(scene.score_QN)
    best_QN = -np.sort(-scene.score_QN, axis=1)
    told_QN = 2 * scene.score_QN - scene.hubness_N
    first_QK = np.argsort(-told_QN, axis=1)[:, :FIRST]
    pairs = np.triu_indices(FIRST, 1)
    agreement_Q = [float((served.image_ND[own] @ served.image_ND[own].T)[pairs].mean()) for own in first_QK]
    spread_Q = (best_QN[:, 0] - np.asarray(seen_QN.mean(axis=1))) / np.asarray(seen_QN.std(axis=1))
    margin_Q = best_QN[:, 0] - best_QN[:, 1:11].mean(axis=1)
    return np.stack([told_QN.max(axis=1), margin_Q, spread_Q, np.array(agreement_Q)], axis=1)


def measured(served: Served, asked: Asked, words: set[str]) -> Measured:
    """What is known of some queries."""
    there, absent = scenes(served, asked, words)
    ten_QK = np.argsort(-there.score_QN, axis=1)[:, :10]
    right_Q: Mask = np.take_along_axis(asked.own_QN, ten_QK, axis=1).max(axis=1)
    return Measured(features(served, there), features(served, absent), right_Q)


def fitted(groups: list[tuple[Values, float]]) -> Values:
    """Weights (1 + F,) of a logistic regression over groups of rows with their answers, each group counting alike."""
    row_MF = np.concatenate([rows for rows, _ in groups])
    answer_M = np.concatenate([np.full(len(rows), answer) for rows, answer in groups])
    counts_M = np.concatenate([np.full(len(rows), 100 / max(1, len(rows))) for rows, _ in groups])
    fit = LogisticRegression(C=1 / SHRINKING, max_iter=1000).fit(row_MF, answer_M, sample_weight=counts_M)
    return np.concatenate([fit.intercept_, fit.coef_[0]])


def judged(names: tuple[str, ...], known: dict[str, Measured]) -> dict[str, list[float]]:
    """Figures of each kind of queries that nothing was fitted on."""
    columns = [FEATURES.index(name) for name in names]
    fit = [known["fit val"], known["fit train"]]
    rows = np.concatenate([part[:, columns] for each in fit for part in (each.there_QF, each.absent_QF)])
    middle_F, scale_F = rows.mean(axis=0), rows.std(axis=0) + 1e-9

    def told(row_QF: Values) -> Values:
        score_Q: Values = weight_F[0] + ((row_QF[:, columns] - middle_F) / scale_F) @ weight_F[1:]
        return score_Q

    # One score needs no weight, and keeps the order of its own.
    weight_F = np.array([0.0, 1.0])
    if len(columns) > 1:
        groups = [((each.there_QF[each.right_Q][:, columns] - middle_F) / scale_F, 1.0) for each in fit]
        weight_F = fitted(groups + [((each.absent_QF[:, columns] - middle_F) / scale_F, 0.0) for each in fit])
    cutoff = _reached(told(known["fit val"].absent_QF))
    found = {}
    for kind, each in known.items():
        if not kind.startswith("fit"):
            there_Q, absent_Q, right_Q = told(each.there_QF), told(each.absent_QF), each.right_Q
            area = np.mean([(score > absent_Q).mean() for score in there_Q[right_Q]])
            found[kind] = [
                float(((there_Q > cutoff) & right_Q).mean()),
                float((absent_Q > cutoff).mean()),
                float(((there_Q > _reached(absent_Q)) & right_Q).mean()),
                float(area),
                float(right_Q.mean()),
            ]
    return found


def _reached(absent_Q: Values) -> float:
    """What `MAX_FALSE` of them are above."""
    return float(np.sort(absent_Q)[::-1][int(len(absent_Q) * MAX_FALSE)])


def main() -> None:
    """Print a table of means over the seeds for each pipeline."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", type=Path)
    for name, releases in seeds(parser.parse_args().folders):
        found: dict[tuple[str, str], list[list[float]]] = defaultdict(list)
        for served in releases:
            words = {word for text in served.texts("train") for word in known_words(text)}
            val, train = served.texts("val"), served.texts("train")
            asked = {"fit val": val[::2], "fit train": train[::2], "val": val[1::2], "train": train[1::2]}
            asked |= {split: served.texts(split) for split in served.splits if split not in ("val", "train")}
            known = {kind: measured(served, served.asked(texts), words) for kind, texts in asked.items()}
            for rule, names in RULES.items():
                for kind, figures in judged(names, known).items():
                    found[rule, kind].append(figures)
        say(f"\n| {name}, {len(releases)} seeds | queries | true | false | at {MAX_FALSE} | area | ceiling |")
        say("| --- | --- | ---: | ---: | ---: | ---: | ---: |")
        for (rule, kind), each in sorted(found.items(), key=lambda item: item[0][1]):
            say(f"| {rule} | {kind} | {' | '.join(f'{value:.3f}' for value in np.mean(each, axis=0))} |")


if __name__ == "__main__":
    main()
