"""A model whose vectors hold for another one, in part: their image towers, or their text towers, are the same."""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from pairloom.models.towers.same_tower import same_image_tower, same_text_tower
from pairloom.storage.corpus import Part
from pairloom.storage.embeddings import EmbeddingStore
from pairloom.storage.modelstore import ModelStore


@dataclass(frozen=True)
class Lent:
    """Vectors that hold for another model as well, by item."""

    images: dict[str, np.ndarray] = field(default_factory=dict)
    texts: dict[str, np.ndarray] = field(default_factory=dict)


@dataclass(frozen=True)
class Lender:
    """The vectors of a model, and which of them hold for another one."""

    store: EmbeddingStore
    images: bool
    texts: bool

    def of_part(self, part: Part) -> Lent:
        """What it has of one part."""
        return Lent(
            self.store.item_vectors(part, "image_vector") if self.images else {},
            self.store.item_vectors(part, "text_vector") if self.texts else {},
        )


def lender_of(folder: Path, model_id: str, other: str | None) -> Lender | None:
    """The vectors of model `other` as far as they hold for `model_id`; None where none do, or where it is unknown."""
    models = ModelStore(folder)
    if other is None or other == model_id or other not in models.ids():
        return None
    own, others = models.path(model_id), models.path(other)
    lender = Lender(EmbeddingStore(folder, other), same_image_tower(own, others), same_text_tower(own, others))
    return lender if lender.images or lender.texts else None
