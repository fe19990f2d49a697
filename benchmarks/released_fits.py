"""The cut-offs as releases measure them: chosen on half of the held-back concepts, asked on all others.

    python -m benchmarks.released_fits s0/emoji-drawings s1/emoji-drawings s0/grocery s1/grocery

Folders are those of `benchmarks.fits`. A concept is a group of items; a text belongs to the first of its groups. The
validation and the training concepts are halved; with the texts of one half of each, `cut_off` makes one as a
night does, once without the training texts, so by the score alone, and once with them, so with the margin where that
helps. Then the other halves are asked, and the test texts, with their own items there and without; then the halves
change places, and all that for ten draws of halves. `true` is the share of texts that one of
their own fits (as a release counts it), `false` the share that something fits without them. The figures are means over
all halves and seeds. Validation and test concepts are held back from training.
"""

import argparse
from collections import defaultdict
from collections.abc import Sequence
from itertools import product
from pathlib import Path

import numpy as np

from benchmarks.fits import MAX_FALSE
from benchmarks.served import Served, say, seeds
from pairloom.models.arrays import Mask
from pairloom.models.batches.relations import normalize_text
from pairloom.models.evaluation.cutoff import Calibration, Candidates, Reached, cut_off, reach
from pairloom.models.evaluation.hubness import hubness

KINDS = ("val", "test", "train")
DRAWS = 10
RULES = ("by the score", "with the margin")


def halves(served: Served, texts: Sequence[str], seed: int) -> Mask:
    """(Q,): which of some texts are of the second half of their concepts."""
    first: dict[str, str] = {}
    for row, group in zip(served.rows, served.group_N.tolist(), strict=True):
        for text in map(normalize_text, row["texts"]):
            first[text] = min(group, first.get(text, group))
    concepts = sorted({first[text] for text in texts})
    later = set(np.random.default_rng(seed).permutation(concepts)[::2].tolist())
    return np.array([first[text] in later for text in texts], bool)


def measured(served: Served) -> dict[tuple[str, str], list[list[float]]]:
    """By rule and kind of texts: true and false finds, and the weight of the margin, of each half."""
    asked = {kind: served.asked(served.texts(kind)) for kind in KINDS if kind in served.splits}
    hubness_N = hubness(served.image_ND, served.training_embeddings)
    query_QD = np.concatenate([each.query_QD for each in asked.values()])
    own_QN = np.concatenate([each.own_QN for each in asked.values()])
    kind_Q = np.concatenate([np.full(len(each.names), kind) for kind, each in asked.items()])
    reached = reach(query_QD, [Candidates(served.image_ND, own_QN, hubness_N=hubness_N)])
    found = defaultdict[tuple[str, str], list[list[float]]](list)
    for draw, half in product(range(DRAWS), (False, True)):
        later_Q = np.concatenate([halves(served, each.names, draw) for each in asked.values()])
        val, train = (reached.of((kind_Q == kind) & (later_Q == half)) for kind in ("val", "train"))
        for rule in RULES:
            made = cut_off(val, train if rule == RULES[1] else train.of(np.zeros(len(train.own_Q), bool)), MAX_FALSE)
            for kind in asked:
                left_Q = (kind_Q == kind) & ((later_Q != half) | (kind == "test"))
                found[rule, kind].append([*finds(made, reached.of(left_Q)), made.margin_weight, float(left_Q.sum())])
    return found


def finds(made: Calibration, reached: Reached) -> tuple[float, float]:
    """True and false finds of some queries at a cut-off."""
    true_Q = reached.own_Q + made.margin_weight * reached.margin_Q >= made.score
    false_Q = reached.other_Q + made.margin_weight * reached.margin_without_Q >= made.score
    return float(true_Q.mean()), float(false_Q.mean())


def main() -> None:
    """Print a table for each pipeline."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", type=Path)
    for name, releases in seeds(parser.parse_args().folders):
        found = defaultdict[tuple[str, str], list[list[float]]](list)
        for served in releases:
            for key, figures in measured(served).items():
                found[key] += figures
        say(f"\n| {name}, {len(releases)} seeds | asked | texts | true | false | weight of the margin |")
        say("| --- | --- | ---: | ---: | ---: | ---: |")
        for (rule, kind), each in found.items():
            true, false, weight, count = np.mean(each, axis=0)
            least, most = np.min(each, axis=0)[2], np.max(each, axis=0)[2]
            told = f"{weight:.2f} ({least:g} to {most:g})"
            say(f"| {rule} | {kind} | {count:.0f} | {true:.3f} | {false:.3f} | {told} |")


if __name__ == "__main__":
    main()
