"""Embed: one model's vectors for every corpus part that has none."""

from pairloom.storage.corpus import Corpus
from pairloom.storage.embeddings import EmbeddingStore
from pairloom.storage.modelstore import ModelStore
from pairloom.tasks.pipeline import Pipeline
from pairloom.tasks.refs import EmbeddingsRef
from pairloom.tasks.stage import stage


@stage(retries=2)
def embed(pipeline: Pipeline, snapshot_number: int, model_id: str) -> EmbeddingsRef:
    """Embed the parts of a snapshot that `model_id` has not embedded yet, part by part."""
    corpus, models = Corpus(pipeline.folder), ModelStore(pipeline.folder)
    snapshot, store = corpus.log.read(snapshot_number), EmbeddingStore(pipeline.folder, model_id)
    embedded = 0
    if missing := store.drop_damaged(snapshot):
        # torch and open_clip, for a night that embeds.
        from pairloom.tasks.embedding.parts import embed_parts

        embedded = embed_parts(pipeline, snapshot, model_id, missing)
    dimension = models.dimension(model_id)
    return EmbeddingsRef(model_id=model_id, snapshot=snapshot.number, dimension=dimension, embedded=embedded)
