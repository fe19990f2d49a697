"""Where a text is expected among pictures: ridge regression of its words and their pieces."""

# T = texts, D = dimensions

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pairloom.models.arrays import Indices, Values
from pairloom.models.closed_form.ridge import KernelRidge, kernel_ridge
from pairloom.models.closed_form.text_features import TextFeatures
from pairloom.models.closed_form.word_meanings import WordMeanings

TEXTS = 20_000
"""Texts that it is fitted on, at most, and keywords."""
KEYWORD = 0.1
"""What a keyword's square counts beside a text's: it says less of a picture, and of more pictures."""


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
    texts: Sequence[str],
    target_TD: Values,
    *,
    seed: int,
    meanings: WordMeanings | None = None,
    keywords: Sequence[str] = (),
) -> TextRegression:
    """Fitted on texts and then `keywords`, and their vectors, one row each; their order has no influence.

    At most `TEXTS` of either are drawn by `seed`. Words are as rare as they are in texts; a keyword counts little. With
    `meanings`, a word that no text has stands near the words that mean alike.
    """
    order, among = _drawn(texts, seed), _drawn(keywords, seed)
    drawn = [texts[row] for row in order]
    features = TextFeatures.fit(drawn, meanings)
    share_T = np.repeat([1, KEYWORD], [len(order), len(among)])
    known = features(drawn + [keywords[row] for row in among])
    target_TD = target_TD[np.concatenate([order, len(texts) + among])]
    return TextRegression(features, kernel_ridge(known, target_TD, seed=seed, share_T=share_T if len(among) else None))


def _drawn(texts: Sequence[str], seed: int) -> Indices:
    """Rows of at most `TEXTS` of them, in the order of the alphabet where that is all."""
    order = np.array(sorted(range(len(texts)), key=texts.__getitem__), dtype=np.int64)
    return order if len(order) <= TEXTS else np.sort(np.random.default_rng(seed).permutation(len(order))[:TEXTS])
