"""What frozen trunks make of the items' images and texts, computed once and read from then on."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from pairloom.models.arrays import Embeddings, Features
from pairloom.models.encoder import Encoder
from pairloom.models.towers.text_trunk import TextTrunk, frozen_text_trunk
from pairloom.models.towers.trunk import Trunk, frozen_trunk
from pairloom.storage.corpus import Corpus, Part, Snapshot
from pairloom.storage.digest import digest
from pairloom.storage.features import FeatureStore, TextFeatureStore
from pairloom.tasks.items import counted, part_pictures
from pairloom.tasks.pipeline import Pipeline
from pairloom.tasks.stage import report_progress


@dataclass(frozen=True)
class Content:
    """What a trunk looks at: an item's image, or a text and the first item that has it."""

    item_id: str
    digest: str | None
    text: str = ""


class KeptFeatures(ABC):
    """The features by one trunk, and the encoder that has it."""

    verb: str
    """What happens to the items, in the present participle."""

    def __init__(self, encoder: Encoder, store: FeatureStore) -> None:
        self.encoder, self.store = encoder, store

    @abstractmethod
    def contents(self, corpus: Corpus, snapshot: Snapshot, part: Part) -> list[Content]:
        """All that one part has for the trunk."""

    @abstractmethod
    def made(
        self, corpus: Corpus, snapshot: Snapshot, part: Part, some: Sequence[Content], looked: Callable[[int], None]
    ) -> Features:
        """Float32 (N, F): what the trunk makes of some contents of one part. `looked` hears of pictures passed."""

    def complete(self, corpus: Corpus, snapshot: Snapshot, stage: str) -> None:
        """Compute those of the snapshot's parts that have none.

        What other rows had before doesn't pass the trunk again.
        """
        own = filling(self, corpus, snapshot, snapshot.parts)
        missing = own.missing
        total, done = sum(part.rows for part in missing), 0
        for part in missing:

            def looked(pictures: int, before: int = done) -> None:
                report_progress(stage, before + pictures, total, f"{self.verb} once")

            own.fill(part, looked)
            done += part.rows
            report_progress(stage, done, total, f"{self.verb} once")


class Filling:
    """Computes what is kept of parts that have none, one after the other."""

    def __init__(self, features: KeptFeatures, corpus: Corpus, snapshot: Snapshot, missing: Sequence[Part]) -> None:
        self.missing = missing
        self._features, self._corpus, self._snapshot = features, corpus, snapshot
        self._contents = {part.digest: features.contents(corpus, snapshot, part) for part in missing}
        wanted = {each.digest for own in self._contents.values() for each in own if each.digest is not None}
        self._known = features.store.superseded(corpus, snapshot, wanted) if wanted else {}

    def fill(self, part: Part, looked: Callable[[int], None]) -> None:
        """Compute those of one part, if it is one of the missing ones; `looked` hears of pictures passed."""
        features, contents = self._features, self._contents.pop(part.digest, None)
        if contents is None:
            return
        found = [self._known.get(each.digest or "") for each in contents]
        unseen = [each for each, feature_F in zip(contents, found, strict=True) if feature_F is None]
        fresh_MF = features.made(self._corpus, self._snapshot, part, unseen, looked)
        fresh = iter(fresh_MF)
        feature_NF = np.empty((len(contents), fresh_MF.shape[1]), np.float32)
        for row, feature_F in enumerate(found):
            feature_NF[row] = next(fresh) if feature_F is None else feature_F
        digests = [each.digest for each in contents]
        features.store.write(part, [each.item_id for each in contents], digests, feature_NF)


def filling(features: KeptFeatures, corpus: Corpus, snapshot: Snapshot, parts: Sequence[Part]) -> Filling:
    """What computes those of some of the snapshot's parts that have none, or damaged ones."""
    missing, some = features.store.drop_damaged(snapshot), {part.digest for part in parts}
    return Filling(features, corpus, snapshot, [part for part in missing if part.digest in some])


class ImageFeatures(KeptFeatures):
    """Those of the stored images."""

    verb = "looking at the pictures"

    def __init__(self, encoder: Encoder, trunk: Trunk, store: FeatureStore) -> None:
        super().__init__(encoder, store)
        self.trunk = trunk

    def contents(self, corpus: Corpus, snapshot: Snapshot, part: Part) -> list[Content]:
        """The image of every item."""
        batches = corpus.read(snapshot, part, ["item_id", "stored_digest"])
        return [Content(row["item_id"], row["stored_digest"]) for batch in batches for row in batch.to_pylist()]

    def made(
        self, corpus: Corpus, snapshot: Snapshot, part: Part, some: Sequence[Content], looked: Callable[[int], None]
    ) -> Features:
        """Float32 (N, F) of the images of some items."""
        ids = pa.array([each.item_id for each in some], pa.string())
        pictures = part_pictures(corpus, snapshot, part, ids)
        return self.encoder.features(self.trunk, counted((own for own, _ in pictures), looked))

    def matrix(self, snapshot: Snapshot, item_ids: Sequence[str]) -> Features:
        """Float32 (N, F) of `item_ids` in their order."""
        return self.store.matrix(snapshot, item_ids, "features")

    def embeddings(self, part: Part, item_ids: Sequence[str]) -> Embeddings:
        """Image embeddings (N, D) of some items of one part."""
        if not item_ids:
            return np.empty((0, self.encoder.dimension), np.float32)
        held = self.store.of_part(part)
        return self.encoder.embed_features(self.trunk, np.stack([held[item_id] for item_id in item_ids]))


class TextFeatures(KeptFeatures):
    """Those of the items' texts: one of each text that a part has, however many of its items share it."""

    verb = "reading the texts"

    def __init__(self, encoder: Encoder, trunk: TextTrunk, store: FeatureStore) -> None:
        super().__init__(encoder, store)
        self.trunk = trunk

    def contents(self, corpus: Corpus, snapshot: Snapshot, part: Part) -> list[Content]:
        """Each of the part's texts once."""
        found: dict[str, Content] = {}
        for batch in corpus.read(snapshot, part, ["item_id", "texts"]):
            for row in batch.to_pylist():
                for text in row["texts"]:
                    if text not in found:
                        found[text] = Content(row["item_id"], digest(text), text)
        return list(found.values())

    def made(
        self, corpus: Corpus, snapshot: Snapshot, part: Part, some: Sequence[Content], looked: Callable[[int], None]
    ) -> Features:
        """Float32 (N, F) of some texts."""
        del corpus, snapshot, part, looked  # as of images
        return self.encoder.text_features(self.trunk, [each.text for each in some])

    def embeddings(self, part: Part, texts: Iterable[str]) -> Embeddings:
        """Text embeddings (N, D) of some texts of one part."""
        named = {digest(text): text for text in texts}
        held = self.store.of_digests(part, named)
        # A part that was read after some of its items had left lacks their texts; a snapshot of before has them.
        if lacking := [each for each in named if each not in held]:
            fresh_MF = self.encoder.text_features(self.trunk, [named[each] for each in lacking])
            held.update(zip(lacking, fresh_MF, strict=True))
        return self.encoder.embed_text_features(self.trunk, np.stack([held[each] for each in named]))


@dataclass(frozen=True)
class KeptTrunks:
    """What is kept of an encoder's two towers, as far as they have trunks that stand still."""

    images: ImageFeatures | None = None
    texts: TextFeatures | None = None


def kept_features(pipeline: Pipeline, encoder: Encoder) -> ImageFeatures | None:
    """The images' features of an encoder whose trunk no training of the pipeline moves; None where it has none."""
    trunk = frozen_trunk(encoder.dual_encoder, pipeline.model)
    return ImageFeatures(encoder, trunk, FeatureStore(pipeline.folder, trunk.digest)) if trunk else None


def kept_text_features(pipeline: Pipeline, encoder: Encoder) -> TextFeatures | None:
    """The same of its texts."""
    trunk = frozen_text_trunk(encoder.dual_encoder, pipeline.model)
    return TextFeatures(encoder, trunk, TextFeatureStore(pipeline.folder, trunk.digest)) if trunk else None


def kept_trunks(pipeline: Pipeline, encoder: Encoder) -> KeptTrunks:
    """The same of both."""
    return KeptTrunks(kept_features(pipeline, encoder), kept_text_features(pipeline, encoder))
