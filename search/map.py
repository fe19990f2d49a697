"""A map of one release: a seeded sample of its items on a plane, where like images lie near one another."""

# S = sampled items, N = items placed, D = embedding

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pairloom.models.evaluation.projection import Floats, Method, Projection
from pairloom.search.release import OpenRelease, Reader

MAX_ITEMS = 2_000
"""Items drawn at most: a map of more is no clearer, and this bounds what it costs."""
MAX_LABELS = 8
"""Colours that people can tell apart."""
OTHERS = "others"
_EDGES = (1.0, 99.0)
"""Percentiles of the sample between which the map stretches, so that a few far items don't squeeze the rest."""


@dataclass(frozen=True)
class Labels:
    """What colours the map's items."""

    column: str
    shown: tuple[str, ...]
    """The most frequent values, most frequent first; all others are `OTHERS`."""
    values: tuple[str, ...]
    """Of every sampled item: one of `shown`, or `OTHERS`."""


class ReleaseMap:
    """Sampled items of a release on a plane. Points lie from 0 to 1, to the right and upwards."""

    def __init__(
        self,
        reader: Reader,
        *,
        method: Method = "pca",
        colour: str | None = None,
        seed: int = 0,
        most: int | None = None,
    ):
        """Lay out at most `most` items (else `MAX_ITEMS`), coloured by the column `colour` or the one that says most.

        Raises ValueError where the release has no such column or `method` can't be had.
        """
        self.release = release = reader.current
        self.method = method
        self.rows: int = release.dataset.count_rows()
        chosen = np.random.default_rng(seed).choice(self.rows, min(self.rows, most or MAX_ITEMS), replace=False)
        self.places: list[int] = chosen.tolist()
        """Of the sampled items in the table."""
        columns = _label_columns(release) if colour is None else [_known(release, colour)]
        sample = release.dataset.take(self.places, columns=["image_vector", *columns])
        self.labels = labels(sample, columns)
        embedding_SD = _matrix(sample["image_vector"], release.record.dimension)
        self._projection = Projection(embedding_SD, method, seed=seed)
        point_S2 = self._projection.place(embedding_SD)
        self._low_2, self._high_2 = np.percentile(point_S2, _EDGES, axis=0)
        self.points_S2 = self._stretched(point_S2)

    @cached_property
    def thumbnails(self) -> list[bytes]:
        """Of the sampled items."""
        found: list[bytes] = self.release.dataset.take(self.places, columns=["thumbnail"])["thumbnail"].to_pylist()
        return found

    @property
    def title(self) -> str:
        """What the map shows, in words."""
        count = f"{self.rows:,}" if self.rows == len(self.places) else f"{len(self.places):,} of {self.rows:,}"
        kept = self._projection.explained
        method = f"PCA, {kept:.0%} of the variance" if kept is not None else "UMAP"
        return f"{count} images of release {self.release.record.number} · {method} · coloured by {self.labels.column}"

    def place(self, item_ids: Sequence[str]) -> dict[str, tuple[float, float]]:
        """The points of these items, sampled or not."""
        wanted = pc.field("item_id").isin(pa.array(sorted(set(item_ids)), pa.string()))
        found = self.release.dataset.to_table(columns=["item_id", "image_vector"], filter=wanted)
        point_N2 = self._projection.place(_matrix(found["image_vector"], self.release.record.dimension))
        placed = self._stretched(point_N2).tolist()
        return {item: (x, y) for item, (x, y) in zip(found["item_id"].to_pylist(), placed, strict=True)}

    def _stretched(self, point_N2: Floats) -> Floats:
        width_2 = np.where(self._high_2 > self._low_2, self._high_2 - self._low_2, 1.0)
        stretched: Floats = np.clip((point_N2 - self._low_2) / width_2 * 0.96 + 0.02, 0, 1).astype(np.float32)
        return stretched


def labels(sample: pa.Table, columns: Sequence[str]) -> Labels:
    """The column, and its most frequent values, that colour most of `sample`; equal ones: the first column named.

    A column with one value only colours nothing, unless there is no other.
    """
    counted = {name: Counter(map(_text, sample[name].to_pylist())) for name in columns}

    def coloured(name: str) -> tuple[bool, int]:
        return len(counted[name]) > 1, sum(count for _, count in _most_frequent(counted[name]))

    column = max(columns, key=coloured)
    shown = tuple(value for value, _ in _most_frequent(counted[column]))
    values = map(_text, sample[column].to_pylist())
    return Labels(column, shown, tuple(value if value in shown else OTHERS for value in values))


def _most_frequent(counted: Counter[str]) -> list[tuple[str, int]]:
    return sorted(counted.items(), key=lambda each: (-each[1], each[0]))[:MAX_LABELS]


def _label_columns(release: OpenRelease) -> list[str]:
    return [*(name for name, kind in release.record.keep.items() if kind in ("string", "bool")), "group"]


def _known(release: OpenRelease, colour: str) -> str:
    usable = [name for name in release.columns if name not in ("image_vector", "text_vector", "thumbnail")]
    if colour not in usable:
        raise ValueError(f"release {release.record.number} has no column {colour!r} to colour by: {', '.join(usable)}")
    return colour


def _text(value: Any) -> str:
    return "none" if value is None else str(value)


def _matrix(column: pa.ChunkedArray, dimension: int) -> Floats:
    flat = pa.concat_arrays(chunk.flatten() for chunk in column.chunks) if column.num_chunks else pa.array([], "float")
    matrix_ND: Floats = flat.to_numpy(zero_copy_only=False).astype(np.float32).reshape(-1, dimension)
    return matrix_ND
