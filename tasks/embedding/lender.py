"""A model whose image vectors hold for another one: their image towers are the same."""

from pathlib import Path

from pairloom.models.towers.image_tower import same_image_tower
from pairloom.storage.embeddings import EmbeddingStore
from pairloom.storage.modelstore import ModelStore


def image_lender(folder: Path, model_id: str, other: str | None) -> EmbeddingStore | None:
    """The vectors of model `other` where its image tower is that of `model_id`; None where it isn't, or is unknown."""
    models = ModelStore(folder)
    if other is None or other == model_id or other not in models.ids():
        return None
    same = same_image_tower(models.path(model_id), models.path(other))
    return EmbeddingStore(folder, other) if same else None
