"""Where a text is expected among pictures: ridge regression of its words and their pieces."""

# T = texts, D = dimensions

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pairloom.models.arrays import Values
from pairloom.models.closed_form.ridge import KernelRidge, kernel_ridge
from pairloom.models.closed_form.text_features import TextFeatures
from pairloom.models.closed_form.word_meanings import WordMeanings

TEXTS = 20_000
"""Texts that it is fitted on, at most."""


@dataclass(frozen=True)
class TextRegression:
    """Predicts a vector for each text, in the form that `normalize_text` gives."""

    features: TextFeatures
    ridge: KernelRidge

    def __call__(self, texts: Sequence[str]) -> Values:
        """(T, D); zero for a text that shares nothing with the texts that it was fitted on."""
        return self.ridge(self.features(texts))

    def sums(self, texts: Sequence[str]) -> Values:
        """(T, D): the same before each text is scaled, so that vectors of words add up to the direction of a text."""
        return self.ridge(self.features.unscaled(texts))


def text_regression(
    texts: Sequence[str], target_TD: Values, *, seed: int, meanings: WordMeanings | None = None
) -> TextRegression:
    """Fitted on texts and their vectors, at most `TEXTS` of them drawn by `seed`; their order has no influence.

    With `meanings`, a word that no text has stands near the words that mean alike.
    """
    order = np.array(sorted(range(len(texts)), key=texts.__getitem__), dtype=np.int64)
    if len(order) > TEXTS:
        order = np.sort(np.random.default_rng(seed).permutation(len(order))[:TEXTS])
    drawn = [texts[row] for row in order]
    features = TextFeatures.fit(drawn, meanings)
    return TextRegression(features, kernel_ridge(features(drawn), target_TD[order], seed=seed))
