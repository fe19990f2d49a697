"""What a frozen trunk makes of the items' images, computed once an image and read from then on."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from pairloom.models.arrays import Embeddings, Features
from pairloom.models.encoder import Encoder
from pairloom.models.pictures import Picture
from pairloom.models.towers.trunk import Trunk, frozen_trunk
from pairloom.storage.corpus import Corpus, Part, Snapshot
from pairloom.storage.features import FeatureStore
from pairloom.tasks.items import part_pictures
from pairloom.tasks.pipeline import Pipeline
from pairloom.tasks.stage import report_progress


@dataclass(frozen=True)
class KeptFeatures:
    """The features by one trunk, and the encoder that has it."""

    encoder: Encoder
    trunk: Trunk
    store: FeatureStore

    def complete(self, corpus: Corpus, snapshot: Snapshot, stage: str) -> None:
        """Compute those of the parts that have none. Pictures that other rows had before are not looked at again."""
        self.store.drop_damaged(snapshot)
        missing = self.store.missing(snapshot)
        known = self.store.superseded(corpus, snapshot) if missing else {}
        total, done = sum(part.rows for part in missing), 0

        def show(rows: int) -> None:
            nonlocal done
            done += rows
            report_progress(stage, done, total, "looking at the pictures once")

        for part in missing:
            self._write(corpus, snapshot, part, known, show)

    def matrix(self, snapshot: Snapshot, item_ids: Sequence[str]) -> Features:
        """Float32 (N, F) of `item_ids` in their order."""
        return self.store.matrix(snapshot, item_ids, "features")

    def embeddings(self, part: Part, item_ids: Sequence[str]) -> Embeddings:
        """Image embeddings (N, D) of some items of one part."""
        if not item_ids:
            return np.empty((0, self.encoder.dimension), np.float32)
        held = self.store.of_part(part)
        return self.encoder.embed_features(self.trunk, np.stack([held[item_id] for item_id in item_ids]))

    def _write(
        self, corpus: Corpus, snapshot: Snapshot, part: Part, known: dict[str, np.ndarray], show: Callable[[int], None]
    ) -> None:
        rows = [row for batch in corpus.read(snapshot, part, ["item_id", "stored_digest"]) for row in batch.to_pylist()]
        found = [known.get(row["stored_digest"]) for row in rows]
        unseen = [row["item_id"] for row, feature_F in zip(rows, found, strict=True) if feature_F is None]
        pictures = part_pictures(corpus, snapshot, part, pa.array(unseen, pa.string()))
        show(len(rows) - len(unseen))
        fresh = iter(self.encoder.features(self.trunk, _told((own for own, _ in pictures), show)))
        feature_NF = np.empty((len(rows), self.trunk.width), np.float32)
        for row, feature_F in enumerate(found):
            feature_NF[row] = next(fresh) if feature_F is None else feature_F
        ids, digests = [row["item_id"] for row in rows], [row["stored_digest"] for row in rows]
        self.store.write(part, ids, digests, feature_NF)


def kept_features(pipeline: Pipeline, encoder: Encoder) -> KeptFeatures | None:
    """The features of an encoder whose trunk no training of the pipeline moves; None where it has no such trunk."""
    trunk = frozen_trunk(encoder.dual_encoder, pipeline.model)
    return KeptFeatures(encoder, trunk, FeatureStore(pipeline.folder, trunk.digest)) if trunk else None


def _told(images: Iterable[Sequence[Picture]], show: Callable[[int], None]) -> Iterator[Sequence[Picture]]:
    """The same images, each run of them told of when the next one is asked for."""
    for own in images:
        yield own
        show(len(own))
