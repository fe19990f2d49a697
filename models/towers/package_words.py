"""Word vectors that come inside a package: for words that a collection's texts never use, but queries may."""

# V = words, D = vector, W = width of a text tower

from collections.abc import Collection
from functools import cache

import numpy as np

from pairloom.models.closed_form.word_meanings import WordMeanings
from pairloom.models.towers.packages import WORD_VECTORS, named_package
from pairloom.models.towers.word_vectors import WordVectors

FIELD = "model.word_vectors"


def common_words(name: str) -> list[str]:
    """The words of `package:NAME` that are letters alone, most frequent first. ValueError as `package_words`."""
    return [word for word in _words(name) if word.isalpha()]


def package_words(name: str, among: Collection[str], width: int) -> WordVectors:
    """Those of `package:NAME` that are `among` some words, as vectors of length `width` that lie to one another alike.

    The directions that they are turned into are the same each time. ValueError where we don't know the package, where
    it isn't installed or isn't what we know, or where `width` is less than the vectors have.
    """
    words, wanted = _words(name), set(among)
    row_V = np.array([row for row, word in enumerate(words) if word in wanted], dtype=np.int64)
    vectors, _ = named_package(FIELD, name, WORD_VECTORS).paths()
    vector_VD = np.load(vectors, mmap_mode="r", allow_pickle=False)[row_V]
    if width < vector_VD.shape[1]:
        raise ValueError(f"{FIELD}: {name} has vectors of {vector_VD.shape[1]}, and the text tower's width is {width}")
    turned_WD = np.linalg.qr(np.random.default_rng(0).normal(size=(width, vector_VD.shape[1])))[0]
    vector_VW = np.asarray(vector_VD @ turned_WD.T, dtype=np.float32)
    count_V = np.zeros(len(row_V), dtype=np.int64)
    return WordVectors(tuple(words[row] for row in row_V), count_V, vector_VW, np.zeros_like(vector_VW))


def package_meanings(name: str) -> WordMeanings:
    """What the words of `package:NAME` mean, all of them. ValueError as `package_words`."""
    vectors, _ = named_package(FIELD, name, WORD_VECTORS).paths()
    return WordMeanings.of(_words(name), np.load(vectors, allow_pickle=False))


@cache
def _words(name: str) -> tuple[str, ...]:
    # Training reads them; a configuration is checked without.
    import pyarrow.parquet as pq

    _, index = named_package(FIELD, name, WORD_VECTORS).paths()
    return tuple(pq.read_table(index, columns=["index"])["index"].to_pylist())
