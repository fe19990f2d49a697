"""What a training looks at, made before any rank joins: pixels, a frozen trunk's features, or where the images lie."""

import logging
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import numpy as np

from pairloom.models.arrays import Features
from pairloom.models.batches.pixels import (
    StreamedPixels,
    open_features,
    open_pixels,
    pixel_bytes,
    write_features,
    write_pixels,
)
from pairloom.models.encoder import Encoder
from pairloom.models.geometry import Pixels
from pairloom.models.objectives.config import look_at_images
from pairloom.models.pictures import Picture
from pairloom.models.towers.dual_encoder import DualEncoder
from pairloom.models.training.moved import chosen, moved_apart
from pairloom.storage.corpus import Corpus, Snapshot
from pairloom.storage.files import make_folder, written_aside
from pairloom.storage.image_places import StoredImages, write_places
from pairloom.storage.images.decoding import open_stored
from pairloom.storage.runs import Run
from pairloom.tasks.embedding.features import ImageFeatures, kept_features
from pairloom.tasks.items import Items, counted, image_batches, split_images
from pairloom.tasks.pipeline import Pipeline
from pairloom.tasks.stage import report_progress
from pairloom.tasks.training.progress import stage_at_hand

logger = logging.getLogger(__name__)

ROOM = 0.5
"""Share of the free disk that pixels may take, where the configuration leaves it open whether they are kept."""
LOOK_EVERY_SECONDS = 0.2


@dataclass(frozen=True)
class Inputs:
    """The images of a training's items, as its image tower takes them."""

    run: Run
    corpus: Corpus
    snapshot: Snapshot
    split: str | None
    items: Items
    start: DualEncoder
    features: ImageFeatures | None
    """Of the trunk that is put aside, where one is."""
    moved_copies: int
    """How many items' pictures are looked at moved, too."""

    @classmethod
    def of(
        cls, pipeline: Pipeline, run: Run, snapshot: Snapshot, split: str | None, items: Items, start: DualEncoder
    ) -> "Inputs":
        """Those of the items of `split`, for a training from `start`."""
        features = None if look_at_images(pipeline.objective) else kept_features(pipeline, Encoder(start))
        copies = pipeline.model.moved_copies if features and pipeline.model.closed_form_start else 0
        return cls(run, Corpus(pipeline.folder), snapshot, split, items, start, features, copies)

    def write(self, kept: str) -> None:
        """Make what there isn't yet, and say how far that is; `kept` is `training.pixels`."""
        if self._file() is not None:
            return
        if self.features:
            self.features.complete(self.corpus, self.snapshot, stage_at_hand())
            feature_NF = self.features.matrix(self.snapshot, self.items.item_ids)
            if self.moved_copies:
                with written_aside(self.run.moved) as aside:
                    write_features(self._moved(self.features, feature_NF), aside)
            with written_aside(self.run.features) as aside:
                write_features(feature_NF, aside)
        elif kept == "file" or (kept == "auto" and self._fit()):
            images = chain.from_iterable(self._counted_images())
            with written_aside(self.run.pixels) as aside:
                write_pixels(images, len(self.items.item_ids), self.start.preprocess_cfg, aside)
        else:
            with written_aside(self.run.places) as aside:
                write_places(self.corpus, self.snapshot, self.split, aside, self._tell("finding the pictures"))

    def wait(self) -> None:
        """Until another process has made them. A launcher ends those that wait where that one fails."""
        while self._file() is None:
            time.sleep(LOOK_EVERY_SECONDS)

    def open(self) -> "Pixels | Features | StreamedPixels":
        """What `write` has made."""
        if self.features:
            return open_features(self.run.features)
        if self.run.pixels.exists():
            return open_pixels(self.run.pixels)
        stored = StoredImages(self.run.places, [self.corpus.part_path(part) for part in self.snapshot.parts])
        cfg = self.start.preprocess_cfg
        return StreamedPixels(lambda row: open_stored(stored.read(row)), cfg, threads=stored.at_once)

    def trunk_aside(self) -> AbstractContextManager[None]:
        """Within it the tower takes features in place of images, where those are what there is."""
        return self.features.trunk.aside() if self.features else nullcontext()

    def _moved(self, features: ImageFeatures, feature_NF: Features) -> Features:
        """(M, F): how far moving takes some of the pictures apart."""
        rows = np.array(chosen(self.items.item_ids, self.moved_copies), dtype=np.int64)
        order = np.argsort(rows)
        ids = [self.items.item_ids[row] for row in rows[order]]
        pictures = image_batches(self.corpus, self.snapshot, ids)
        return moved_apart(features.encoder, features.trunk, pictures, feature_NF[rows[order]], order)

    def _file(self) -> Path | None:
        made = (self.run.features,) if self.features else (self.run.pixels, self.run.places)
        return next((path for path in made if path.exists()), None)

    def _fit(self) -> bool:
        wanted = pixel_bytes(len(self.items.item_ids), self.start.preprocess_cfg)
        make_folder(self.run.here)
        free = shutil.disk_usage(self.run.here).free
        if fits := wanted <= ROOM * free:
            return fits
        logger.info(
            "training pixels would take %.1f of %.1f GB that are free: pictures are decoded for each batch instead",
            wanted / 1e9,
            free / 1e9,
        )
        return fits

    def _counted_images(self) -> Iterator[list[Picture]]:
        return counted(split_images(self.corpus, self.snapshot, self.split), self._tell("decoding the pictures"))

    def _tell(self, doing: str) -> Callable[[int], None]:
        total = len(self.items.item_ids)
        return lambda done: report_progress(stage_at_hand(), done, total, doing)
