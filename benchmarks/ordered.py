"""What a pipeline has learned from labels of ordered pairs alone: right labels of unseen pairs, and kinds nobody named.

    python -m benchmarks.rendered rock-paper-scissors .pairloom/rendered/rock-paper-scissors
    pairloom run -p rock-paper-scissors --file benchmarks/objectives/ordered.yaml
    python -m benchmarks.ordered --pipeline rock-paper-scissors

`square-triangle-line` in all three places asks the same of squares, triangles and lines.

Reads the newest release and classifies every ordered pair of validation drawings, none of which training saw in any
pair. Compared with the rule, with the same pairs in the other order, and by nearest neighbours among single embeddings:
the kind of each training drawing, hidden from training, is asked of the five nearest.
"""

from pathlib import Path

import numpy as np

from benchmarks.collection import print_figures, released
from benchmarks.rendered import GAMES, outcome
from pairloom.models.objectives.ordered import OrderedClassifier
from pairloom.storage.corpus import Corpus


def figures(file: Path, name: str) -> dict[str, float]:
    """Shares of all ordered pairs of validation drawings, and the accuracy of the probe that the night measured."""
    found = released(file, name)
    kinds = GAMES[name]
    rows = Corpus(found.pipeline.folder).table(found.snapshot, ["item_id", "kind"]).to_pylist()
    by_id = {row["item_id"]: kinds.index(row["kind"]) for row in rows}
    kind_N = np.array([by_id[item] for item in found.item_ids])
    firsts_M, seconds_M = (each.ravel() for each in np.indices((len(kind_N), len(kind_N))))
    apart_M = firsts_M != seconds_M
    firsts_M, seconds_M = firsts_M[apart_M], seconds_M[apart_M]
    classifier = OrderedClassifier.load(found.model)
    label_M = classifier.labels(found.image_ND, firsts_M, seconds_M)
    swapped_M = classifier.labels(found.image_ND, seconds_M, firsts_M)
    wanted_M = np.array([outcome(a, b) for a, b in zip(kind_N[firsts_M], kind_N[seconds_M], strict=True)])
    decided_M = label_M != 0
    return {
        "pairs": len(wanted_M),
        "right": float(np.mean(label_M == wanted_M)),
        "wins_and_losses_swapped": float(np.mean(swapped_M[decided_M] == -label_M[decided_M])),
        "draws_stay_draws": float(np.mean(swapped_M[~decided_M] == 0)),
        "knn_kind": found.release.metrics["probe_kind_knn"],
    }


def main() -> None:
    """Prints the figures as JSON."""
    print_figures(__doc__, "rock-paper-scissors", figures)


if __name__ == "__main__":
    main()
