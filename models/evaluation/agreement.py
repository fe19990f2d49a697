"""How far the texts of rows are about their images, by the embeddings of a model that has not been trained on them.

Mismatched pairs agree by 0, items that were held out from its training by 1. A model finds some texts and some images
similar to whatever they are paired with; so what counts of a row's similarity is how far it is above the mean one that
its text has with other images, and its image with other texts.
"""

# N = rows, H = held-out items, D = embedding, R = resamples, T = texts

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pairloom.models.arrays import Embeddings, Indices, Values

RESAMPLES = 1_000


@dataclass(frozen=True)
class Vectors:
    """Both embeddings of some rows."""

    image_ND: Embeddings
    text_ND: Embeddings
    """The mean of a row's texts, normalised."""

    def __len__(self) -> int:
        return len(self.image_ND)

    def take(self, rows: Indices) -> "Vectors":
        """Those of some rows."""
        return Vectors(self.image_ND[rows], self.text_ND[rows])


@dataclass(frozen=True)
class Contrasts:
    """What rows have above mismatched pairs."""

    value_N: Values
    text_N: Indices
    """Each row's text as a number: what a model makes of one text it makes of it in all its rows."""

    @property
    def texts(self) -> int:
        """How many texts there are."""
        return len(np.unique(self.text_N))

    def take(self, rows: Indices) -> "Contrasts":
        """Those of some rows."""
        return Contrasts(self.value_N[rows], self.text_N[rows])


@dataclass(frozen=True)
class Estimate:
    """A value with the ends of its interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.2f} ({self.low:.2f} to {self.high:.2f})"


def contrasts(rows: Vectors, others: Vectors) -> Values:
    """(N,): how much more similar each row's text and image are than either is to the other side of `others`."""
    if not len(rows):
        return np.empty(0)
    images_ND, texts_ND = (each.astype(np.float64) for each in (rows.image_ND, rows.text_ND))
    mean_image_D, mean_text_D = (each.mean(axis=0, dtype=np.float64) for each in (others.image_ND, others.text_ND))
    found_N: Values = (images_ND * texts_ND).sum(axis=1) - (images_ND @ mean_text_D + texts_ND @ mean_image_D) / 2
    return found_N


def own_contrasts(held: Vectors) -> Values:
    """(H,): `contrasts` of each of some items with all others of them."""
    return contrasts(held, held) * (len(held) / max(1, len(held) - 1))


def agreement(kinds: Sequence[tuple[Contrasts, Contrasts]], *, confidence: float, seed: int) -> Estimate:
    """The mean of rows as a share of what is expected of them, with its bootstrap interval over the texts of both.

    Of each kind of rows with the held-out items of that kind, whose mean is what is expected.
    """
    random, count_K = np.random.default_rng(seed), np.array([len(rows.value_N) for rows, _ in kinds], float)
    drawn_KR, expected_KR = (np.array([_means(each[side], random) for each in kinds]) for side in (0, 1))
    value, expected = (count_K @ [each[side].value_N.mean() for each in kinds] for side in (0, 1))
    return Estimate(float(value / expected), *_ends((count_K @ drawn_KR) / (count_K @ expected_KR), confidence))


def mean_estimate(rows: Contrasts, *, confidence: float, seed: int) -> Estimate:
    """The rows' mean with its bootstrap interval over their texts."""
    drawn_R = _means(rows, np.random.default_rng(seed))
    return Estimate(float(rows.value_N.mean()), *_ends(drawn_R, confidence))


def _means(rows: Contrasts, random: np.random.Generator) -> Values:
    """(R,): means over resampled texts (Efron 1979), each with all of its rows."""
    _, number_N = np.unique(rows.text_N, return_inverse=True)
    count_T = np.bincount(number_N)
    total_T = np.bincount(number_N, rows.value_N)
    draws = (random.integers(len(count_T), size=len(count_T)) for _ in range(RESAMPLES))
    return np.array([total_T[drawn].sum() / count_T[drawn].sum() for drawn in draws])


def _ends(drawn_R: Values, confidence: float) -> tuple[float, float]:
    low, high = np.quantile(drawn_R, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)
