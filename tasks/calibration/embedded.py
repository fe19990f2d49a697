"""Rows as a model's vector table would hold them, of a model that has no table: another one serves in its place."""

# N = rows, T = training texts, D = embedding

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pairloom.models.evaluation.hubness import hubness
from pairloom.storage.corpus import Corpus
from pairloom.storage.embeddings import EmbeddingStore
from pairloom.storage.modelstore import ModelStore
from pairloom.storage.schema import HUBNESS, VECTOR_COLUMNS
from pairloom.storage.training_texts import TrainingTexts


class Rows(Protocol):
    """A vector table, as far as it is read here."""

    @property
    def schema(self) -> pa.Schema:
        """Its columns."""

    def batches(self, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
        """All rows, a few at a time."""


class EmbeddedRows:
    """The items of a snapshot with their stored embeddings by one model, and their hubness where that is wanted."""

    def __init__(self, folder: Path, snapshot: int, model_id: str, *, hubness: bool) -> None:
        self._corpus, self._store = Corpus(folder), EmbeddingStore(folder, model_id)
        self._snapshot = self._corpus.log.read(snapshot)
        texts = TrainingTexts(ModelStore(folder).path(model_id))
        self._text_TD = texts.vectors() if hubness and texts.kept else None

    @property
    def schema(self) -> pa.Schema:
        """What it can be asked for, beside the corpus' own columns."""
        return pa.schema([pa.field(HUBNESS, pa.float32())] if self._text_TD is not None else [])

    def batches(self, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
        """The rows part by part."""
        vectors = [name for name in columns if name in VECTOR_COLUMNS]
        own = [name for name in columns if name not in (*vectors, HUBNESS)]
        for part in self._snapshot.parts:
            embedded = self._store.read(part, ["item_id", *vectors])
            for items in self._corpus.read(self._snapshot, part, list(dict.fromkeys(["item_id", *own]))):
                place = pc.index_in(items["item_id"], value_set=embedded["item_id"].combine_chunks())
                found = {name: embedded[name].take(place).combine_chunks() for name in vectors}
                found |= {name: items[name] for name in own}
                if HUBNESS in columns and self._text_TD is not None:
                    image_ND = np.asarray(found["image_vector"].flatten(), np.float32).reshape(len(items), -1)
                    found[HUBNESS] = pa.array(hubness(image_ND, self._text_TD), pa.float32())
                yield pa.RecordBatch.from_arrays([found[name] for name in columns], names=list(columns))
