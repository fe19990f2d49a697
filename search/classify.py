"""Which class an image is of, by the nearest prototype of the release's own classes and of those people added."""

# N = images, C = classes, V = validation items, D = embedding

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import BaseModel

from pairloom.models.arrays import Indices, Mask, Values
from pairloom.models.evaluation.prototypes import (
    Nearest,
    Threshold,
    choose_threshold,
    class_sums,
    held_out,
    nearest_two,
    prototypes,
)
from pairloom.search.query import SCORE_DIGITS
from pairloom.search.release import OpenRelease, Reader
from pairloom.storage.classes import ClassStore, Vectors, checked_name
from pairloom.storage.images.decoding import open_query_image, open_stored, read_example
from pairloom.storage.schema import VECTOR_COLUMNS
from pairloom.storage.table.index import Floats

logger = logging.getLogger(__name__)

R = TypeVar("R")

GROUP = "group"
MAX_VALIDATION = 5_000
"""Validation items that a threshold is chosen on; of more, as many are drawn with seed 0 by their ids."""


class ClassRow(BaseModel, frozen=True, extra="forbid", use_attribute_docstrings=True):
    """One class that images may be told to be of."""

    name: str
    items: int
    """Items of the release."""
    examples: int
    """Images added by `pairloom classes add`."""


class Told(BaseModel, frozen=True, extra="forbid", use_attribute_docstrings=True):
    """What one image was told to be."""

    image: str
    name: str | None
    """None where no class is near enough."""
    score: float
    """Cosine similarity to the prototype of `nearest`, rounded."""
    nearest: str
    second: str | None
    second_score: float | None


class Classified(BaseModel, frozen=True, extra="forbid"):
    """Images with their classes, with the release and model they were told by."""

    release: int
    model_id: str
    column: str
    threshold: Threshold
    images: list[Told]

    def to_json(self) -> dict[str, Any]:
        """The document that `pairloom classify --json` prints."""
        return {
            "release": self.release,
            "model_id": self.model_id,
            "column": self.column,
            "threshold": self.threshold.value,
            "images": [
                {
                    "image": each.image,
                    "class": each.name,
                    "score": each.score,
                    "nearest": each.nearest,
                    "second": each.second,
                    "second_score": each.second_score,
                }
                for each in self.images
            ],
        }


class Classes:
    """The classes of one column of an open release, and those that were added to it."""

    def __init__(self, reader: Reader, column: str = GROUP) -> None:
        """Reads the column, no vectors yet. Raises ValueError where `column` is not one of strings."""
        self.release = release = reader.current
        self.column = _checked_column(release, column)
        self._store = ClassStore(release.folder)
        self._examples = self._store.examples(column)
        labels = release.dataset.to_table(columns=[column, "split"])
        own = sorted(set(labels[column].drop_null().to_pylist()))
        self.names = [*own, *sorted(set(self._examples) - set(own))]
        codes = pc.index_in(labels[column], pa.array(self.names, pa.string()))
        self._class_N: Indices = codes.fill_null(-1).to_numpy().astype(np.int64)
        self._validation_N: Mask = pc.equal(labels["split"], "val").to_numpy() & (self._class_N >= 0)

    def rows(self) -> list[ClassRow]:
        """The classes with their sizes, in the order of their names."""
        found = [
            ClassRow(name=name, items=int(items), examples=len(self._examples.get(name, {})))
            for name, items in zip(self.names, self._item_counts, strict=True)
        ]
        return sorted(found, key=lambda row: row.name)

    def tell(self, image_ND: Floats) -> Nearest:
        """The two nearest classes of every embedded image, as places in `names`. ValueError where there is no class."""
        if not self.names:
            raise ValueError(
                f"release {self.release.record.number} knows no class: its column {self.column!r} is empty; "
                "name another with --column, or add one with `pairloom classes add NAME IMAGES`"
            )
        return nearest_two(image_ND, self.mean_directions)

    @cached_property
    def mean_directions(self) -> Values:
        """(C, D): the prototype of each class, from its items and examples."""
        total_CD = self._sums.sum_CD.copy()
        row = {name: number for number, name in enumerate(self.names)}
        vectors = self._example_vectors() if self._examples else {}
        for name, images in self._examples.items():
            total_CD[row[name]] += np.sum([vectors[digest] for digest in images], axis=0, dtype=np.float64)
        return prototypes(total_CD)

    @cached_property
    def threshold(self) -> Threshold:
        """Chosen on the release's validation items by `choose_threshold`; added classes have no part.

        Raises ValueError where they don't allow it.
        """
        sums = self._sums
        try:
            return choose_threshold(held_out(sums.val_VD, sums.val_class_V, sums.sum_CD, self._item_counts))
        except ValueError as error:
            raise ValueError(
                f"no threshold can be chosen on release {self.release.record.number} by column {self.column!r}: "
                f"{error}; give one with --threshold, a cosine similarity"
            ) from error

    @cached_property
    def _item_counts(self) -> Indices:
        return np.bincount(self._class_N[self._class_N >= 0], minlength=len(self.names)).astype(np.int64)

    @cached_property
    def _sums(self) -> "_Sums":
        chosen_V = np.flatnonzero(self._validation_N)
        if len(chosen_V) > MAX_VALIDATION:
            ids = self.release.dataset.to_table(columns=["item_id"])["item_id"].take(chosen_V)
            drawn = np.random.default_rng(0).choice(len(chosen_V), MAX_VALIDATION, replace=False)
            chosen_V = np.sort(chosen_V[pc.sort_indices(ids).to_numpy()[drawn]])
        return _read_sums(self.release, self._class_N, len(self.names), chosen_V)

    def _example_vectors(self) -> Vectors:
        """Embeddings of all examples, those not kept from an earlier time made now."""
        model_id = self.release.record.model_id
        wanted = {digest: image for images in self._examples.values() for digest, image in images.items()}
        # Those that were added to a release whose pictures weren't cut are cut now.
        made = {digest: f"{digest} trimmed" if self.release.record.trim else digest for digest in wanted}
        known = self._store.vectors(model_id)
        missing = [digest for digest in wanted if made[digest] not in known]
        if missing:
            images = [open_query_image(open_stored(wanted[each]), self.release.as_ingested) for each in missing]
            embedded_ND = self.release.encoder.embed_images(images)
            known |= dict(zip((made[each] for each in missing), embedded_ND, strict=True))
            try:
                self._store.keep_vectors(model_id, known)
            except OSError as error:
                logger.warning(
                    "embeddings of added classes can't be kept, so the next query makes them anew: %s", error
                )
        return {digest: known[made[digest]] for digest in wanted}


def classify(
    reader: Reader, images: Sequence[Path], *, column: str = GROUP, threshold: float | None = None
) -> Classified:
    """The class of every image, None where it is less similar than `threshold` to all.

    Raises ValueError, in one line, naming every image that can't be read.
    """
    if threshold is not None and not -1 <= threshold <= 1:
        raise ValueError(f"threshold is {threshold}, must be from -1 to 1: it is a cosine similarity")
    release = reader.current
    classes = Classes(release, column)
    opened = _each(images, lambda path: open_query_image(path, release.as_ingested))
    found = classes.tell(release.encoder.embed_images(opened))
    chosen = classes.threshold if threshold is None else Threshold(threshold)
    told = []
    for row, path in enumerate(images):
        score, second = float(found.score_N[row]), int(found.second_N[row])
        nearest = classes.names[found.best_N[row]]
        told.append(
            Told(
                image=str(path),
                name=nearest if score >= chosen.value else None,
                score=round(score, SCORE_DIGITS),
                nearest=nearest,
                second=classes.names[second] if second >= 0 else None,
                second_score=round(float(found.second_score_N[row]), SCORE_DIGITS) if second >= 0 else None,
            )
        )
    record = release.record
    return Classified(release=record.number, model_id=record.model_id, column=column, threshold=chosen, images=told)


def add_examples(reader: Reader, name: str, images: Sequence[Path], *, column: str = GROUP) -> ClassRow:
    """Add images to the class `name` of `column`, one that the release has, one added before, or a new one.

    All or none: raises ValueError, in one line, naming every image that can't be read.
    """
    release = reader.current
    name = checked_name(name)
    _checked_column(release, column)
    contents = _each(images, lambda path: read_example(path, release.as_ingested))
    ClassStore(release.folder).add(column, name, contents)
    return next(row for row in Classes(release, column).rows() if row.name == name)


@dataclass(frozen=True)
class _Sums:
    sum_CD: Values
    val_VD: Floats
    val_class_V: Indices


def _read_sums(release: OpenRelease, class_N: Indices, classes: int, chosen_V: Indices) -> _Sums:
    """Sums of the items' image vectors by class, and the vectors of `chosen_V`, in one pass over the table."""
    vector, _ = VECTOR_COLUMNS
    dimension = release.record.dimension
    sum_CD = np.zeros((classes, dimension))
    val_VD, start = np.empty((len(chosen_V), dimension), np.float32), 0
    for batch in release.dataset.to_batches(columns=[vector]):
        image_ND = batch[vector].flatten().to_numpy(zero_copy_only=False).reshape(-1, dimension)
        end = start + len(image_ND)
        own_N = class_N[start:end]
        labelled_N = own_N >= 0
        present, place_N = np.unique(own_N[labelled_N], return_inverse=True)
        sum_CD[present] += class_sums(image_ND[labelled_N], place_N, len(present))
        low, high = np.searchsorted(chosen_V, [start, end])
        val_VD[low:high] = image_ND[chosen_V[low:high] - start]
        start = end
    assert start == len(class_N), "both scans are of one version"
    return _Sums(sum_CD, val_VD, class_N[chosen_V])


def _checked_column(release: OpenRelease, column: str) -> str:
    allowed = [GROUP, *(name for name, kind in release.record.keep.items() if kind == "string")]
    if column not in allowed:
        raise ValueError(f"column {column!r} can't hold classes: those of strings are {', '.join(allowed)}")
    return column


def _each(images: Sequence[Path], read: Callable[[Path], R]) -> list[R]:
    found, errors = [], []
    for path in images:
        try:
            found.append(read(path))
        except ValueError as error:
            errors.append(str(error))
    if errors:
        raise ValueError("; ".join(errors))
    return found
