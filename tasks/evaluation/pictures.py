"""Image embeddings of items by one model: stored ones where it has embedded their part already."""

# N = items, D = embedding

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from pairloom.models.arrays import Embeddings
from pairloom.models.encoder import Encoder
from pairloom.storage.corpus import Corpus, Part, Snapshot
from pairloom.storage.embeddings import EmbeddingStore
from pairloom.storage.modelstore import ModelStore
from pairloom.tasks.embedding.features import ImageFeatures
from pairloom.tasks.engine.workers import workers
from pairloom.tasks.items import IMAGES_AT_ONCE, image_batches, second_tower_items
from pairloom.tasks.pipeline import Pipeline

AT_ONCE = 4 * IMAGES_AT_ONCE
"""Items of a job: so many whole batches, so that each image has the neighbours in its batch that it has here."""


@dataclass(frozen=True)
class Asked:
    """Some items, in the corpus' order, and the parts that they are in."""

    parts: tuple[Part, ...]
    item_ids: tuple[str, ...]


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
    pipeline: Pipeline | None = None
    """Whose engine embeds what is fresh; without it that is done here, all at once."""

    def embeddings(self, item_ids: Sequence[str]) -> Embeddings:
        """Float32 (N, D). Only what neither the model nor its trunk has met yet is decoded, and nothing is stored."""
        missing = tuple(self.store.missing(self.snapshot))
        unread = self.snapshot.model_copy(update={"parts": missing})
        lacking = {part.digest for part in missing}
        held = tuple(part for part in self.snapshot.parts if part.digest not in lacking)
        places = {item_id: row for row, item_id in enumerate(item_ids)}
        fresh = {
            item_id: part
            for part in missing
            for item_id in self.corpus.part_ids(unread, part).to_pylist()
            if item_id in places
        }
        known = [item_id for item_id in item_ids if item_id not in fresh]
        found_ND = np.empty((len(item_ids), self.encoder.dimension), np.float32)
        if fresh and self.features and not self.features.store.missing(self.snapshot):
            feature_MF = self.features.matrix(unread, list(fresh))
            found_ND[[places[each] for each in fresh]] = self.encoder.embed_features(self.features.trunk, feature_MF)
        elif fresh and self.pipeline and self.pipeline.engine.kind != "local":
            opened = partial(opened_embedder, self.pipeline, self.snapshot.number, self.store.folder.name)
            with workers(self.pipeline.engine, "evaluate", opened) as run:
                for asked, own_MD in run(shared_out(fresh)):
                    found_ND[[places[each] for each in asked.item_ids]] = own_MD
        elif fresh:
            found_ND[[places[each] for each in fresh]] = embedded(self.encoder, self.corpus, unread, list(fresh))
        if known:
            stored = self.snapshot.model_copy(update={"parts": held})
            found_ND[[places[each] for each in known]] = self.store.matrix(stored, known, "image_vector")
        return found_ND


def shared_out(part_of: Mapping[str, Part], at_once: int = AT_ONCE) -> Iterator[Asked]:
    """So many items at a time, in their order."""
    ids = list(part_of)
    for start in range(0, len(ids), at_once):
        own = tuple(ids[start : start + at_once])
        yield Asked(tuple({part_of[each].digest: part_of[each] for each in own}.values()), own)


def embedded(encoder: Encoder, corpus: Corpus, snapshot: Snapshot, item_ids: Sequence[str]) -> Embeddings:
    """Image embeddings (N, D) of some items, in the corpus' order."""
    second_N = second_tower_items(corpus, snapshot, item_ids, encoder.second)
    return encoder.embed_batches(image_batches(corpus, snapshot, item_ids), second_N)


def opened_embedder(pipeline: Pipeline, snapshot_number: int, model_id: str) -> Callable[[Asked], Embeddings]:
    """What embeds some items by a model, which is loaded once."""
    corpus, encoder = Corpus(pipeline.folder), Encoder.load(ModelStore(pipeline.folder).whole(model_id))
    snapshot = corpus.log.read(snapshot_number)

    def embed(asked: Asked) -> Embeddings:
        only = snapshot.model_copy(update={"parts": asked.parts})
        return embedded(encoder, corpus, only, asked.item_ids)

    return embed
