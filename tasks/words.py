"""Word vectors of a corpus' texts: learned once a state of the corpus, then read."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pairloom.models.towers.config import WordVectorsConfig
from pairloom.models.towers.word_vectors import WordVectors, learn_words
from pairloom.storage.corpus import Corpus, Snapshot
from pairloom.storage.digest import digest
from pairloom.storage.releases import release_log
from pairloom.storage.schema import words_schema
from pairloom.storage.words import WordStore
from pairloom.tasks.pipeline import Pipeline


def served_words(pipeline: Pipeline) -> WordVectors:
    """Those of the corpus that the current release serves, or of the newest one where nothing is released yet.

    They are made as a block `model.word_vectors` says, otherwise as it would by default. ValueError where there is no
    corpus.
    """
    corpus, release = Corpus(pipeline.folder), release_log(pipeline.folder).current()
    snapshot = corpus.log.read(release.snapshot) if release else corpus.current()
    if not snapshot.parts:
        raise ValueError(f"pipeline {pipeline.name!r} has no items yet: run `pairloom run -p {pipeline.name}`")
    return corpus_words(pipeline.folder, snapshot, _of_texts(pipeline))


def _of_texts(pipeline: Pipeline) -> WordVectorsConfig:
    config = pipeline.model.word_vectors
    return config if isinstance(config, WordVectorsConfig) else WordVectorsConfig()


def corpus_words(folder: Path, snapshot: Snapshot, config: WordVectorsConfig) -> WordVectors:
    """Those of the training items' texts: read where they were learned before, else learned now and kept."""
    store, words_id = WordStore(folder), digest([snapshot.digest, config.model_dump(mode="json")])
    if (stored := store.read(words_id)) is not None:
        return from_table(stored)
    rows = Corpus(folder).table(snapshot, ["texts", "split"])
    texts = rows.filter(pc.equal(rows["split"], "train"))["texts"].to_pylist()
    words = learn_words(texts, config)
    store.write(words_id, to_table(words))
    return words


def to_table(words: WordVectors) -> pa.Table:
    """The rows that are stored."""
    dimension = words.vector_VD.shape[1]
    vector, context = (
        pa.FixedSizeListArray.from_arrays(pa.array(values.ravel()), dimension)
        for values in (words.vector_VD, words.context_VD)
    )
    return pa.table([list(words.words), words.count_V, vector, context], schema=words_schema(dimension))


def from_table(rows: pa.Table) -> WordVectors:
    """What `to_table` took."""
    vector_VD, context_VD = (
        np.stack(rows[name].to_numpy()).astype(np.float32, copy=False) for name in ("vector", "context")
    )
    return WordVectors(tuple(rows["word"].to_pylist()), rows["count"].to_numpy(), vector_VD, context_VD)
