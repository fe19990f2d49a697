"""What it brings to take the images' hubness off what texts find: recall with and without it, of releases.

    python -m benchmarks.hubness s0/emoji s1/emoji s2/emoji s0/grocery s1/grocery s2/grocery

The folders are those of pipelines with a release; folders of one name are the seeds of one pipeline. Asked are the
texts of the validation and test items, whose groups no training has seen (grocery's: whose items), among the images of
their own split and among all that is served; the texts of the training items, and keywords that are nobody's text,
among all. An item of the text's group is right, or one with the keyword.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from benchmarks.served import Asked, Served, say, seeds
from pairloom.models.arrays import Mask, Values
from pairloom.models.evaluation.hubness import corrected, hubness

K = (1, 10)


def recalls(score_QN: Values, own_QN: Mask) -> list[float]:
    """Share of the queries with a right item among the first, and among ten."""
    best_QK = np.argsort(-score_QN, axis=1, kind="stable")[:, : max(K)]
    right_QK = np.take_along_axis(own_QN, best_QK, axis=1)
    return [float(right_QK[:, :k].any(axis=1).mean()) for k in K]


def questions(served: Served) -> Iterator[tuple[str, Asked, Mask]]:
    """What is asked, and among which items."""
    everything = np.ones(len(served.rows), bool)
    for split in served.splits:
        asked = served.asked(served.texts(split))
        if split != "train":
            yield f"{split} texts among {split}", asked, served.split_N == split
        yield f"{split} texts among all", asked, everything
    if (asked := served.keywords()).names:
        yield "keywords among all", asked, everything


def measured(served: Served) -> dict[str, list[list[float]]]:
    """By question: plain and corrected recalls."""
    hubness_N = hubness(served.image_ND, served.training_embeddings)
    found = {}
    for title, asked, among_N in questions(served):
        score_QN = (asked.query_QD @ served.image_ND[among_N].T).astype(np.float64)
        ranked_QN = np.stack([corrected(score_N, hubness_N[among_N]) for score_N in score_QN])
        found[title] = [recalls(each, asked.own_QN[:, among_N]) for each in (score_QN, ranked_QN)]
    return found


def main() -> None:
    """Print a table of means over the seeds, and each seed's difference."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", type=Path)
    say("| | asked | plain @1 | corrected @1 | by seed | plain @10 | corrected @10 | by seed |")
    say("| --- | --- | --- | --- | --- | --- | --- | --- |")
    for name, releases in seeds(parser.parse_args().folders):
        found = [measured(each) for each in releases]
        for title in found[0]:
            value_S2K = np.array([each[title] for each in found])
            cells = []
            for place in range(len(K)):
                plain_S, ranked_S = value_S2K[:, 0, place], value_S2K[:, 1, place]
                differences = " ".join(f"{each:+.3f}" for each in ranked_S - plain_S)
                cells += [f"{plain_S.mean():.3f}", f"{ranked_S.mean():.3f}", differences]
            say(f"| {name} | {title} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
