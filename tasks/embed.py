"""Embed: one model's vectors for every corpus part that has none."""

from pairloom.storage.corpus import Corpus
from pairloom.storage.embeddings import EmbeddingStore
from pairloom.storage.modelstore import ModelStore
from pairloom.storage.releases import release_log
from pairloom.tasks.pipeline import Pipeline
from pairloom.tasks.refs import EmbeddingsRef
from pairloom.tasks.stage import stage


@stage(retries=2)
def embed(pipeline: Pipeline, snapshot_number: int, model_id: str) -> EmbeddingsRef:
    """Embed the parts of a snapshot that `model_id` has not embedded yet, part by part."""
    corpus, models = Corpus(pipeline.folder), ModelStore(pipeline.folder)
    snapshot, store = corpus.log.read(snapshot_number), EmbeddingStore(pipeline.folder, model_id)
    store.drop_damaged(snapshot)
    embedded = 0
    if store.missing(snapshot):
        # torch and open_clip, for a night that embeds.
        from pairloom.models.encoder import Encoder
        from pairloom.tasks.embedding.features import kept_trunks
        from pairloom.tasks.embedding.lender import lender_of
        from pairloom.tasks.embedding.parts import embed_missing

        champion = release_log(pipeline.folder).current()
        # As a reader loads it: nobody could search what a damaged model embeds.
        encoder = Encoder.load(models.whole(model_id))
        lender = lender_of(pipeline.folder, model_id, champion.model_id if champion else None)
        kept = kept_trunks(pipeline, encoder)
        embedded = embed_missing(corpus, snapshot, store, encoder, lender=lender, kept=kept)
    dimension = models.dimension(model_id)
    return EmbeddingsRef(model_id=model_id, snapshot=snapshot.number, dimension=dimension, embedded=embedded)
