"""Word vectors of a corpus by skip-gram: a word has a vector of its own, and another one as the context of others."""

# V = words, D = vector

import difflib
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel

from pairloom.models.towers.config import WordVectorsConfig
from pairloom.models.towers.words import split_words

Vectors = npt.NDArray[np.float32]

WORDS_SEEN, MAX_EPOCHS = 5_000_000, 100


@dataclass(frozen=True)
class WordVectors:
    """Words, most frequent first, with their two vectors."""

    words: tuple[str, ...]
    count_V: npt.NDArray[np.int64]
    """How often each is among the texts."""
    vector_VD: Vectors
    context_VD: Vectors
    """What each is as the context of others."""

    def row(self, word: str) -> int:
        """A word's number. ValueError, with the nearest spelling, where there is none."""
        known = {each: number for number, each in enumerate(self.words)}
        (*pieces,) = split_words(word)
        if len(pieces) == 1 and pieces[0] in known:
            return known[pieces[0]]
        near = difflib.get_close_matches(" ".join(pieces), self.words, n=3, cutoff=0.5)
        nearest = f"; nearest spelling: {', '.join(near)}" if near else ""
        reason = "is not one word" if len(pieces) != 1 else f"is not among the {len(self.words):,} words of the texts"
        raise ValueError(f"{word!r} {reason}{nearest}")


class Neighbour(BaseModel, frozen=True, extra="forbid", use_attribute_docstrings=True):
    """A word found, and how near it is."""

    word: str
    score: float
    count: int
    """How often it is among the texts."""


@dataclass(frozen=True)
class Question:
    """Which words to look for: those used like each of `words`, or like the sum of all with `plus` less `minus`."""

    words: Sequence[str]
    plus: Sequence[str] = ()
    minus: Sequence[str] = ()
    beside: bool = False
    """What stands beside each of `words` instead."""


class Answer(BaseModel, frozen=True, extra="forbid", use_attribute_docstrings=True):
    """What was found for one question."""

    query: str
    """The question in words."""
    neighbours: tuple[Neighbour, ...]
    """Best first."""


def learn_words(item_texts: Iterable[Sequence[str]], config: WordVectorsConfig) -> WordVectors:
    """Vectors of all words that the items' texts hold; neither the items' order nor equal items have an influence.

    ValueError where gensim isn't installed, or where the texts hold too few words.
    """
    rows = sorted({tuple(word for text in texts for word in split_words(text)) for texts in item_texts})
    total = sum(map(len, rows))
    word2vec = _word2vec()
    model = word2vec(
        vector_size=config.dimension,
        window=config.window,
        sg=1,
        hs=0,
        negative=config.negatives,
        min_count=config.min_count,
        sample=config.frequent,
        seed=config.seed + 1,  # gensim takes 0 for no seed
        workers=1,  # threads would race for the order of steps
        hashfxn=_stable_hash,
    )
    model.build_vocab([list(row) for row in rows])
    if len(model.wv) < 2:
        raise ValueError(
            f"the training items' texts hold {len(model.wv)} words that come {config.min_count} times or more; "
            "word vectors need at least 2"
        )
    epochs = config.epochs or min(MAX_EPOCHS, -(-WORDS_SEEN // total))
    model.train([list(row) for row in rows], total_examples=len(rows), epochs=epochs)
    words = tuple(model.wv.index_to_key)
    count_V = np.array([model.wv.get_vecattr(word, "count") for word in words], dtype=np.int64)
    return WordVectors(words, count_V, np.array(model.wv.vectors), np.array(model.syn1neg))


def ask(vectors: WordVectors, question: Question, *, k: int) -> list[Answer]:
    """An answer for each word, or one for the sum where there is something to add or take. ValueError as `alike`."""
    words, plus, minus = question.words, question.plus, question.minus
    if plus or minus:
        if question.beside:
            raise ValueError("--beside takes words one by one; leave out --plus and --minus")
        query = " + ".join([*words, *plus]) + "".join(f" − {word}" for word in minus)
        return [Answer(query=query, neighbours=tuple(alike(vectors, [*words, *plus], minus, k=k)))]
    found = [beside(vectors, word, k=k) if question.beside else alike(vectors, [word], k=k) for word in words]
    return [Answer(query=word, neighbours=tuple(each)) for word, each in zip(words, found, strict=True)]


def alike(vectors: WordVectors, plus: Sequence[str], minus: Sequence[str] = (), *, k: int = 10) -> list[Neighbour]:
    """The `k` words whose vectors are nearest, by cosine, to the sum of `plus` less `minus`, these left out.

    Sums are of unit vectors (3CosAdd, Levy & Goldberg 2014). ValueError for a word that isn't there.
    """
    given = [vectors.row(word) for word in (*plus, *minus)]
    unit_VD = _unit(vectors.vector_VD)
    signs = np.array([1.0] * len(plus) + [-1.0] * len(minus), dtype=np.float32)
    return _best(vectors, unit_VD @ _unit(signs @ unit_VD[given]), given, k)


def beside(vectors: WordVectors, word: str, *, k: int = 10) -> list[Neighbour]:
    """The `k` words that stand beside `word` most likely: the model's own probability, σ(vector · context)."""
    row = vectors.row(word)
    logit_V = vectors.context_VD @ vectors.vector_VD[row]
    found = _best(vectors, logit_V, [row], k)
    return [each.model_copy(update={"score": round(float(1 / (1 + np.exp(-each.score))), 6)}) for each in found]


def _best(vectors: WordVectors, score_V: Vectors, without: Sequence[int], k: int) -> list[Neighbour]:
    score_V = score_V.copy()
    score_V[list(without)] = -np.inf
    order = np.argsort(-score_V, kind="stable")[: min(k, len(score_V) - len(set(without)))]
    return [
        Neighbour(word=vectors.words[row], score=round(float(score_V[row]), 6), count=int(vectors.count_V[row]))
        for row in order
    ]


def _unit(vectors: Vectors) -> Vectors:
    unit: Vectors = vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-12)
    return unit


def _stable_hash(word: str) -> int:
    """Python's own differs from process to process."""
    return zlib.crc32(word.encode())


def _word2vec() -> type:
    try:
        from gensim.models import Word2Vec
    except ImportError as error:
        raise ValueError("word vectors need gensim: pip install 'pairloom[objectives]'") from error
    found: type = Word2Vec
    return found
