"""Image embeddings of items by one model: stored ones where it has embedded their part already."""

# N = items, D = embedding

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pairloom.models.arrays import Embeddings
from pairloom.models.encoder import Encoder
from pairloom.storage.corpus import Corpus, Snapshot
from pairloom.storage.embeddings import EmbeddingStore
from pairloom.tasks.embedding.features import ImageFeatures
from pairloom.tasks.items import image_batches, second_tower_items


@dataclass(frozen=True)
class Pictures:
    """The pictures of a snapshot as one model sees them."""

    corpus: Corpus
    snapshot: Snapshot
    encoder: Encoder
    store: EmbeddingStore
    """The model's own."""
    features: ImageFeatures | None = None
    """What its frozen trunk has made of the snapshot's pictures."""

    def embeddings(self, item_ids: Sequence[str]) -> Embeddings:
        """Float32 (N, D). Only what neither the model nor its trunk has met yet is decoded, and nothing is stored."""
        missing = tuple(self.store.missing(self.snapshot))
        unread = self.snapshot.model_copy(update={"parts": missing})
        held = tuple(part for part in self.snapshot.parts if part not in missing)
        places = {item_id: row for row, item_id in enumerate(item_ids)}
        ids = (item_id for part in missing for item_id in self.corpus.part_ids(unread, part).to_pylist())
        fresh = dict.fromkeys(item_id for item_id in ids if item_id in places)
        known = [item_id for item_id in item_ids if item_id not in fresh]
        found_ND = np.empty((len(item_ids), self.encoder.dimension), np.float32)
        if fresh and self.features and not self.features.store.missing(self.snapshot):
            feature_MF = self.features.matrix(unread, list(fresh))
            found_ND[[places[each] for each in fresh]] = self.encoder.embed_features(self.features.trunk, feature_MF)
        elif fresh:
            second_N = second_tower_items(self.corpus, self.snapshot, list(fresh), self.encoder.second)
            pictures = image_batches(self.corpus, unread, list(fresh))
            found_ND[[places[each] for each in fresh]] = self.encoder.embed_batches(pictures, second_N)
        if known:
            stored = self.snapshot.model_copy(update={"parts": held})
            found_ND[[places[each] for each in known]] = self.store.matrix(stored, known, "image_vector")
        return found_ND
