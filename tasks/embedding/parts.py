"""Corpus parts embedded by one model."""

import numpy as np

from pairloom.models.encoder import Encoder, mean_text_embeddings
from pairloom.storage.corpus import Corpus, Part, Snapshot
from pairloom.storage.embeddings import EmbeddingStore
from pairloom.storage.images.decoding import open_stored
from pairloom.tasks.items import require_tower_column
from pairloom.tasks.stage import report_progress


def embed_missing(corpus: Corpus, snapshot: Snapshot, store: EmbeddingStore, encoder: Encoder) -> int:
    """Embed the parts that the store has no vectors of, part by part; returns how many items they hold."""
    if encoder.second:
        require_tower_column(corpus, snapshot, encoder.second)
    missing = store.missing(snapshot)
    total, done = sum(part.rows for part in missing), 0
    for part in missing:
        item_ids, image_ND, text_ND = embed_part(corpus, snapshot, part, encoder)
        store.write(part, item_ids, image_ND, text_ND)
        done += part.rows
        report_progress("embed", done, total)
    return total


def embed_part(
    corpus: Corpus, snapshot: Snapshot, part: Part, encoder: Encoder
) -> tuple[list[str], np.ndarray, np.ndarray]:
    """Item ids, image vectors and text vectors (N, D) of one part. A text vector is the mean of an item's texts."""
    tower = encoder.second
    item_ids: list[str] = []
    image_vectors, text_vectors = [np.empty((0, encoder.dimension), np.float32)], []
    for batch in corpus.read(snapshot, part, ["item_id", "image", "texts", *([tower.column] if tower else [])]):
        rows = batch.to_pylist()
        if rows:
            item_ids += [row["item_id"] for row in rows]
            second_N = tower.takes([row[tower.column] for row in rows]) if tower else None
            image_vectors.append(encoder.embed_images([open_stored(row["image"]["bytes"]) for row in rows], second_N))
            text_vectors.append(embed_item_texts(encoder, [row["texts"] for row in rows]))
    return item_ids, np.concatenate(image_vectors), np.concatenate([*image_vectors[:1], *text_vectors])


def embed_item_texts(encoder: Encoder, texts: list[list[str]]) -> np.ndarray:
    """One text vector (N, D) an item; a text that several items share is embedded once."""
    row = {text: number for number, text in enumerate(dict.fromkeys(text for own in texts for text in own))}
    item_texts = [np.array([row[text] for text in own]) for own in texts]
    return mean_text_embeddings(encoder.embed_texts(list(row)), item_texts)
