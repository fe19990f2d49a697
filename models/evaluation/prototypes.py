"""Nearest-prototype classification: a class is the mean direction of its images' embeddings, anything far is unknown.

Snell et al. 2017 (prototypical networks), with cosine similarity; a class may come after training, from a few images.
"""

# N = images, V = validation images, C = classes, D = embedding

from dataclasses import dataclass

import numpy as np

from pairloom.models.arrays import Embeddings, Indices, Mask, Values
from pairloom.models.evaluation.similarity import TIE

BLOCK = 1 << 24  # similarities held at once
NONE = -1


@dataclass(frozen=True)
class Nearest:
    """The two nearest prototypes of every image, by cosine similarity."""

    best_N: Indices
    score_N: Values
    second_N: Indices
    """`NONE` where there is one class only."""
    second_score_N: Values


@dataclass(frozen=True)
class HeldOut:
    """Validation images asked twice: with their class known by its other images, and with their class left out."""

    own_V: Values
    """Similarity to the mean of the class's other images; -inf where it has none."""
    other_V: Values
    """Similarity to the nearest of all other classes."""


@dataclass(frozen=True)
class Choice:
    """What a threshold was chosen on, and what it does there."""

    images: int
    right: float
    """Share of the images whose class is known by other images that are told right, whatever the similarity."""
    kept: float
    """Share of these that are at or above the threshold."""
    refused: float
    """Share of all images that are below it where their class is left out."""


@dataclass(frozen=True)
class Threshold:
    """The similarity below which an image is of no known class."""

    value: float
    choice: Choice | None = None
    """None where a person gave the value."""

    def __str__(self) -> str:
        given = f"threshold {self.value:.3f}"
        if (choice := self.choice) is None:
            return given
        return (
            f"{given}: of {choice.images:,} validation images {choice.right:.0%} told right, {choice.kept:.0%} of "
            f"these kept; without their class {choice.refused:.0%} refused"
        )


def class_sums(image_ND: Embeddings, class_N: Indices, classes: int) -> Values:
    """(C, D): the sum of every class's embeddings."""
    sum_CD = np.zeros((classes, image_ND.shape[1]))
    if len(class_N):
        order_N = np.argsort(class_N, kind="stable")
        present, starts = np.unique(class_N[order_N], return_index=True)
        sum_CD[present] = np.add.reduceat(image_ND[order_N].astype(np.float64), starts, axis=0)
    return sum_CD


def prototypes(sum_CD: Values) -> Values:
    """The mean direction of every class, L2-normalised: p_c = s_c / |s_c|."""
    unit_CD: Values = sum_CD / np.maximum(np.linalg.norm(sum_CD, axis=1, keepdims=True), 1e-12)
    return unit_CD


def nearest_two(image_ND: Embeddings, prototype_CD: Values) -> Nearest:
    """The nearest and second nearest prototype of every image; of those within `TIE` of the nearest, the first."""
    count, classes = len(image_ND), len(prototype_CD)
    best_N, second_N = np.zeros(count, np.int64), np.full(count, NONE, np.int64)
    score_N, second_score_N = np.zeros(count), np.full(count, -np.inf)
    step = max(1, BLOCK // classes)
    for start in range(0, count, step):
        rows = slice(start, start + step)
        scores_NC = image_ND[rows].astype(np.float64) @ prototype_CD.T
        here = np.arange(len(scores_NC))
        best_N[rows] = _first_of_the_nearest(scores_NC)
        score_N[rows] = scores_NC[here, best_N[rows]]
        if classes > 1:
            scores_NC[here, best_N[rows]] = -np.inf
            second_N[rows] = _first_of_the_nearest(scores_NC)
            second_score_N[rows] = scores_NC[here, second_N[rows]]
    return Nearest(best_N, score_N, second_N, second_score_N)


def _first_of_the_nearest(scores_NC: Values) -> Indices:
    first_N: Indices = (scores_NC >= scores_NC.max(axis=1, keepdims=True) - TIE).argmax(axis=1)
    return first_N


def held_out(image_VD: Embeddings, class_V: Indices, sum_CD: Values, count_C: Indices) -> HeldOut:
    """Asks every validation image as if it had not been there, and as if its class had not been there.

    `sum_CD` and `count_C` include the validation images. With x an image and s the sum of its class, the prototype
    without x is (s - x) / |s - x|.
    """
    exact_VD = image_VD.astype(np.float64)
    rest_VD = sum_CD[class_V] - exact_VD
    own_V = np.einsum("vd,vd->v", exact_VD, prototypes(rest_VD))
    own_V[count_C[class_V] < 2] = -np.inf
    prototype_CD = prototypes(sum_CD)
    other_V = np.full(len(image_VD), -np.inf)
    step = max(1, BLOCK // max(1, len(sum_CD)))
    for start in range(0, len(image_VD), step):
        rows = slice(start, start + step)
        scores_VC = exact_VD[rows] @ prototype_CD.T
        scores_VC[np.arange(len(scores_VC)), class_V[rows]] = -np.inf
        other_V[rows] = scores_VC.max(axis=1)
    return HeldOut(own_V, other_V)


def choose_threshold(asked: HeldOut) -> Threshold:
    """The threshold with the highest sum of two shares: known images that, told right, are kept, and left-out ones that
    are refused (Youden's index).

    An image whose class has no other image is asked as a left-out one only; one as near to another class, within
    `TIE`, is not told right. Raises ValueError where either share would be of nothing.
    """
    known_V: Mask = np.isfinite(asked.own_V)
    right = np.sort(asked.own_V[known_V & (asked.own_V > asked.other_V + TIE)])
    left_out = np.sort(asked.other_V[np.isfinite(asked.other_V)])
    if not len(right) or not len(left_out):
        raise ValueError("it takes validation images of two classes or more, one of which is told right by the others")
    scores = np.unique(np.concatenate([right, left_out]))
    kept = (len(right) - np.searchsorted(right, scores)) / len(right)
    refused = np.searchsorted(left_out, scores) / len(left_out)
    best = int(np.argmax(kept + refused))
    # Any value above the next lower score decides alike: the middle is the furthest from both.
    value = scores[best] if best == 0 else (scores[best - 1] + scores[best]) / 2
    choice = Choice(len(asked.other_V), len(right) / int(known_V.sum()), float(kept[best]), float(refused[best]))
    return Threshold(float(value), choice)
