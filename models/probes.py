"""Probes: how well labels can be read off frozen image embeddings, by scikit-learn's classifiers."""

# N = training images, M = test images, D = embedding

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from models.bootstrap import Values

Embeddings = npt.NDArray[np.float32]

MAX_TRAINING_ITEMS = 50_000
MAX_ITERATIONS = 1_000
NEIGHBOURS = 5


def probe(
    train_ND: Embeddings,
    train_labels: Sequence[str | None],
    test_MD: Embeddings,
    test_labels: Sequence[str | None],
    *,
    seed: int = 0,
) -> dict[str, Values]:
    """Per probe 1 or 0 for every test image whose label training has too: was it told right? The mean is the accuracy.

    `linear_probe`: logistic regression, C = 1 (the protocol of Radford et al. 2021, without their search for C);
    `svm_probe`: linear SVM, C = 1; `knn`: majority among the 5 nearest by cosine. Items without a label are left out,
    and beyond 50,000 training items a seeded sample is drawn. Empty where training has fewer than two labels or none
    of the test images' does.
    """
    # Seconds to import: a night without probes goes without.
    from sklearn.linear_model import LogisticRegression
    from sklearn.neighbors import KNeighborsClassifier
    from sklearn.svm import LinearSVC

    known = np.array([row for row, label in enumerate(train_labels) if label is not None], dtype=np.int64)
    if len(known) > MAX_TRAINING_ITEMS:
        known = np.sort(np.random.default_rng(seed).choice(known, MAX_TRAINING_ITEMS, replace=False))
    learned = [str(train_labels[row]) for row in known]
    labels = set(learned)
    asked = [row for row, label in enumerate(test_labels) if label in labels]
    if len(labels) < 2 or not asked:
        return {}
    classifiers = {
        "linear_probe": LogisticRegression(max_iter=MAX_ITERATIONS),
        "svm_probe": LinearSVC(max_iter=MAX_ITERATIONS, random_state=seed),
        "knn": KNeighborsClassifier(min(NEIGHBOURS, len(learned))),
    }
    wanted = np.array([str(test_labels[row]) for row in asked])
    return {
        name: (classifier.fit(train_ND[known], learned).predict(test_MD[asked]) == wanted).astype(np.float64)
        for name, classifier in classifiers.items()
    }
