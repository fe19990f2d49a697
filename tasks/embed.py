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
    # torch and open_clip, for a night that embeds.
    from pairloom.models.encoder import Encoder
    from pairloom.tasks.embedding.parts import embed_missing

    corpus = Corpus(pipeline.folder)
    snapshot = corpus.log.read(snapshot_number)
    # As a reader loads it: nobody could search what a damaged model embeds.
    encoder = Encoder.load(ModelStore(pipeline.folder).whole(model_id))
    embedded = embed_missing(corpus, snapshot, EmbeddingStore(pipeline.folder, model_id), encoder)
    return EmbeddingsRef(model_id=model_id, snapshot=snapshot.number, dimension=encoder.dimension, embedded=embedded)
