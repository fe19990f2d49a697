"""Probes: how well labels can be read off frozen image embeddings, by scikit-learn's classifiers."""

# N = training images, M = test images, D = embedding

import logging
import warnings
from collections import Counter
from collections.abc import Sequence

import numpy as np

from pairloom.models.arrays import Embeddings, Indices, Values

logger = logging.getLogger(__name__)

# The SVM of 200 labels and 5,000 items of 512 dimensions takes half a minute; it grows with each of the three.
MAX_TRAINING_ITEMS = 5_000
MAX_LABELS = 200
MAX_ITERATIONS = 1_000
NEIGHBOURS = 5


def training_rows(labels: Sequence[str | None], *, seed: int) -> Indices:
    """Which items to learn a column from, sorted: those of its 200 most frequent labels, at most 5,000, drawn with
    `seed`. Items without a label are left out.
    """
    counted = Counter(label for label in labels if label is not None)
    frequent = set(sorted(counted, key=lambda label: (-counted[label], label))[:MAX_LABELS])
    rows = np.array([row for row, label in enumerate(labels) if label in frequent], dtype=np.int64)
    if len(rows) > MAX_TRAINING_ITEMS:
        rows = np.sort(np.random.default_rng(seed).choice(rows, MAX_TRAINING_ITEMS, replace=False))
    return rows


def probe(
    train_ND: Embeddings, train_labels: Sequence[str], test_MD: Embeddings, test_labels: Sequence[str | None], seed: int
) -> dict[str, Values]:
    """Per probe 1 or 0 for every test image whose label training has too: was it told right? The mean is the accuracy.

    `logistic`: logistic regression on standardised embeddings, C = 1 (the protocol of Radford et al. 2021, without
    their search for C); `svm`: linear SVM, likewise; `knn`: majority among the 5 nearest by cosine. Test items without
    a label are left out. Empty where training has fewer than two labels or none of the test images'.
    """
    # Seconds to import: a night without probes goes without.
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression
    from sklearn.neighbors import KNeighborsClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler
    from sklearn.svm import LinearSVC

    labels = set(train_labels)
    asked = [row for row, label in enumerate(test_labels) if label in labels]
    if len(labels) < 2 or not asked:
        return {}
    classifiers = {
        # Embeddings may lie in a narrow cone, where C = 1 would let the penalty alone decide.
        "logistic": make_pipeline(StandardScaler(), LogisticRegression(max_iter=MAX_ITERATIONS)),
        # Measured: the dual takes a third of the primal's time at these sizes.
        "svm": make_pipeline(
            StandardScaler(), LinearSVC(max_iter=MAX_ITERATIONS, dual=True, tol=1e-2, random_state=seed)
        ),
        "knn": KNeighborsClassifier(min(NEIGHBOURS, len(train_labels))),
    }
    wanted = np.array([str(test_labels[row]) for row in asked])
    right = {}
    for name, classifier in classifiers.items():
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", ConvergenceWarning)
            right[name] = classifier.fit(train_ND, train_labels).predict(test_MD[asked]) == wanted
        if caught:
            logger.info("%s probe: %s", name, caught[0].message)
    return {name: right_M.astype(np.float64) for name, right_M in right.items()}
