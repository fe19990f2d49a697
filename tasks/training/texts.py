"""The training texts that a model keeps beside its weights: a sample of them embedded, and all of their words."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from pairloom.models.encoder import Encoder
from pairloom.models.fitness import UnfitModelError
from pairloom.models.towers.words import known_words
from pairloom.storage.training_texts import TrainingTexts

MOST = 2_048
"""Texts that are embedded: of more, a sample."""


def keep_training_texts(folder: Path, encoder: Encoder, texts: Sequence[str]) -> None:
    """Leave them in a model's folder. The order of `texts` has no influence.

    A model that embeds them as no numbers keeps none: it is held where it is measured.
    """
    known = sorted(set(texts))
    if len(known) > MOST:
        drawn = np.random.default_rng(0).choice(len(known), MOST, replace=False)
        sample = [known[place] for place in sorted(drawn)]
    else:
        sample = known
    try:
        vector_TD = encoder.embed_texts(sample)
    except UnfitModelError:
        return
    TrainingTexts(folder).write(vector_TD, (word for text in known for word in known_words(text)))
