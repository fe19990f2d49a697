"""Corpus parts embedded by one model."""

from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import accumulate
from typing import Any

import numpy as np
import pyarrow as pa

from pairloom.models.encoder import Encoder, mean_text_embeddings
from pairloom.storage.corpus import Corpus, Part, Snapshot
from pairloom.storage.embeddings import EmbeddingStore
from pairloom.storage.modelstore import ModelStore
from pairloom.storage.releases import release_log
from pairloom.tasks.embedding.features import KeptTrunks, TextFeatures, filling, kept_trunks
from pairloom.tasks.embedding.lender import Lent, lender_of
from pairloom.tasks.engine.workers import workers
from pairloom.tasks.items import counted, part_pictures, require_tower_column
from pairloom.tasks.pipeline import Pipeline
from pairloom.tasks.stage import report_progress

Row = dict[str, Any]
AT_ONCE = 1_000
"""Items whose texts are embedded together."""


@dataclass
class KnownVectors:
    """Vectors of content that rows had which tonight's rows replace: what only moved is not embedded again."""

    images: dict[Hashable, np.ndarray] = field(default_factory=dict)
    """By digest of the stored image and the tower that encodes it."""
    texts: dict[Hashable, np.ndarray] = field(default_factory=dict)
    lent: Lent = field(default_factory=Lent)
    """Vectors that a model with the same tower has of the part at hand."""


@dataclass(frozen=True)
class Portion:
    """A part to embed, and where it stands among all that are to be embedded tonight."""

    part: Part
    before: int
    """Rows of those that come first."""
    total: int


def embed_parts(pipeline: Pipeline, snapshot: Snapshot, model_id: str, missing: Sequence[Part]) -> int:
    """Give the model vectors of the parts that it has none of; returns how many items had anything to be embedded."""
    total, embedded = sum(part.rows for part in missing), 0
    ends = accumulate(part.rows for part in missing)
    portions = [Portion(part, end - part.rows, total) for part, end in zip(missing, ends, strict=True)]
    opened = partial(PartEmbedder, pipeline, snapshot.number, model_id)
    with workers(pipeline.engine, "embed", opened) as run:
        for portion, fresh in run(portions):
            embedded += fresh
            report_progress("embed", portion.before + portion.part.rows, total)
    return embedded


class PartEmbedder:
    """Embeds parts of a snapshot by one model, which is loaded once.

    Vectors that the champion has hold for this model as well where they share a tower, and with what is kept of frozen
    trunks no picture or text passes one twice.
    """

    def __init__(self, pipeline: Pipeline, snapshot_number: int, model_id: str) -> None:
        self._corpus = Corpus(pipeline.folder)
        self._snapshot = self._corpus.log.read(snapshot_number)
        self._store = EmbeddingStore(pipeline.folder, model_id)
        # As a reader loads it: nobody could search what a damaged model embeds.
        self._encoder = Encoder.load(ModelStore(pipeline.folder).whole(model_id))
        if self._encoder.second:
            require_tower_column(self._corpus, self._snapshot, self._encoder.second)
        champion = release_log(pipeline.folder).current()
        self._lender = lender_of(pipeline.folder, model_id, champion.model_id if champion else None)
        self._known = known_vectors(self._corpus, self._snapshot, self._store, self._encoder)
        self._kept = kept_trunks(pipeline, self._encoder)
        features = [each for each in (self._kept.images, self._kept.texts) if each]
        missing = self._store.missing(self._snapshot) if features else ()
        self._fillings = [filling(each, self._corpus, self._snapshot, missing) for each in features]

    def __call__(self, portion: Portion) -> int:
        """Write the vectors of one part; returns of how many items something had to be embedded."""
        part = portion.part

        def looked(pictures: int) -> None:
            report_progress("embed", portion.before + pictures, portion.total)

        for each in self._fillings:
            each.fill(part, looked)
        self._known.lent = self._lender.of_part(part) if self._lender else Lent()
        item_ids, image_ND, text_ND, fresh = embed_part(
            self._corpus, self._snapshot, part, self._encoder, self._known, self._kept, looked
        )
        self._store.write(part, item_ids, image_ND, text_ND)
        return fresh


def known_vectors(corpus: Corpus, snapshot: Snapshot, store: EmbeddingStore, encoder: Encoder) -> KnownVectors:
    """The vectors of the rows that `snapshot` replaces, of those that the model has embedded."""
    known, tower = KnownVectors(), encoder.second
    for row, image_D, text_D in store.superseded(corpus, snapshot, [tower.column] if tower else []):
        known.images[image_key(row, encoder)] = image_D
        known.texts[tuple(row["texts"])] = text_D
    return known


def embed_part(
    corpus: Corpus,
    snapshot: Snapshot,
    part: Part,
    encoder: Encoder,
    known: KnownVectors,
    kept: KeptTrunks,
    looked: Callable[[int], None] = lambda _pictures: None,
) -> tuple[list[str], np.ndarray, np.ndarray, int]:
    """Item ids, image vectors and text vectors (N, D) of one part, and of how many items something had to be embedded.

    A text vector is the mean of an item's texts. `looked` hears how many pictures were embedded so far.
    """
    tower = encoder.second
    columns = ["item_id", "stored_digest", "texts", *([tower.column] if tower else [])]
    batches = [batch.to_pylist() for batch in corpus.read(snapshot, part, columns)]
    rows = [row for batch in batches for row in batch]
    images = [known.lent.images.get(row["item_id"], known.images.get(image_key(row, encoder))) for row in rows]
    texts = [known.lent.texts.get(row["item_id"], known.texts.get(tuple(row["texts"]))) for row in rows]
    unseen = [row for row, image_D in zip(rows, images, strict=True) if image_D is None]
    unseen_ids = [row["item_id"] for row in unseen]
    if kept.images:
        image_MD = kept.images.embeddings(part, unseen_ids)
    else:
        second_M = tower.takes([row[tower.column] for row in unseen]) if tower else None
        pictures = part_pictures(corpus, snapshot, part, pa.array(unseen_ids, pa.string()))
        image_MD = encoder.embed_batches(counted((own for own, _ in pictures), looked), second_M)
    unread = [row["texts"] for row, text_D in zip(rows, texts, strict=True) if text_D is None]
    text_MD = [vector_D for own in runs(unread) for vector_D in embed_item_texts(encoder, own, part, kept.texts)]
    fresh = sum(image_D is None or text_D is None for image_D, text_D in zip(images, texts, strict=True))
    shape = (len(rows), encoder.dimension)
    return (
        [row["item_id"] for row in rows],
        completed(images, image_MD).reshape(shape),
        completed(texts, text_MD).reshape(shape),
        fresh,
    )


def image_key(row: Row, encoder: Encoder) -> Hashable:
    """What decides the vector of a row's image."""
    tower = encoder.second
    return row["stored_digest"], bool(tower and tower.takes([row[tower.column]])[0])


def completed(known: Sequence[np.ndarray | None], fresh_MD: Iterable[np.ndarray]) -> np.ndarray:
    """The vectors (N, D) that are known, and in the places of the others those of `fresh_MD`."""
    fresh = iter(fresh_MD)
    return np.array([next(fresh) if vector_D is None else vector_D for vector_D in known], np.float32)


def embed_item_texts(
    encoder: Encoder, texts: Sequence[list[str]], part: Part | None = None, features: TextFeatures | None = None
) -> np.ndarray:
    """One text vector (N, D) an item; a text that several items share is embedded once.

    Of items of one part, from its `features` where there are such.
    """
    row = {text: number for number, text in enumerate(dict.fromkeys(text for own in texts for text in own))}
    item_texts = [np.array([row[text] for text in own]) for own in texts]
    text_TD = features.embeddings(part, row) if part and features else encoder.embed_texts(list(row))
    return mean_text_embeddings(text_TD, item_texts)


def runs(texts: Sequence[list[str]]) -> Iterator[Sequence[list[str]]]:
    """The texts of so many items at once as don't fill the memory."""
    return (texts[start : start + AT_ONCE] for start in range(0, len(texts), AT_ONCE))
