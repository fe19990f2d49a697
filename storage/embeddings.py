"""Embeddings: one Parquet file per model and corpus part, both vectors of every item."""

import logging
from collections.abc import Iterator, Sequence
from math import inf
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pairloom.storage.changes import differing_parts
from pairloom.storage.checked import CheckedFiles
from pairloom.storage.corpus import Corpus, Part, Snapshot
from pairloom.storage.digest import bytes_digest
from pairloom.storage.files import DamagedError
from pairloom.storage.parquet import read_parquet, require_whole, write_parquet
from pairloom.storage.schema import embedding_schema

logger = logging.getLogger(__name__)


class EmbeddingStore:
    """The embeddings of one model, below a pipeline's folder."""

    def __init__(self, folder: Path, model_id: str) -> None:
        self._pipeline = folder
        self.folder = folder / "embeddings" / model_id

    def missing(self, snapshot: Snapshot) -> list[Part]:
        """The parts of `snapshot` that this model has not embedded yet: what a night costs."""
        return [part for part in snapshot.parts if not self._path(part).exists()]

    def drop_damaged(self, snapshot: Snapshot) -> None:
        """Delete the files of `snapshot` that are not what was written, so that they are missing."""
        checked, folder = CheckedFiles(self._pipeline), self.folder.relative_to(self._pipeline).as_posix()
        for part in snapshot.parts:
            path = self._path(part)
            if path.exists() and not checked.whole(f"{folder}/{path.name}"):
                logger.warning("%d items of %s are embedded anew", part.rows, path.name)
                path.unlink()
        checked.save()

    def write(self, part: Part, item_ids: Sequence[str], image_ND: np.ndarray, text_ND: np.ndarray) -> None:
        """Write one part's vectors, float32 (N, D), in one step. Raises ValueError where one is not finite."""
        for name, vectors_ND in (("image", image_ND), ("text", text_ND)):
            if not np.isfinite(vectors_ND).all():
                raise ValueError(f"{name} vectors of part {part.digest} by model {self.folder.name} are not finite")
        dimension = image_ND.shape[1]
        vectors = [
            pa.FixedSizeListArray.from_arrays(pa.array(vectors_ND.ravel(), pa.float32()), dimension)
            for vectors_ND in (image_ND, text_ND)
        ]
        schema = embedding_schema(dimension)
        write_parquet(pa.table([pa.array(item_ids, pa.string()), *vectors], schema=schema), self._path(part))

    def read(self, part: Part, columns: Sequence[str] | None = None) -> pa.Table:
        """Vectors of one part, dead items included: item_id, image_vector, text_vector, or `columns` of them."""
        path = self._path(part)
        try:
            return pa.Table.from_batches(read_parquet(path, columns))
        except DamagedError:
            # A disk may change what it holds without a word: the next night looks again, and embeds it anew.
            CheckedFiles(self._pipeline).forget(path.relative_to(self._pipeline).as_posix())
            raise

    def image_vectors(self, part: Part) -> dict[str, np.ndarray]:
        """The image vector of each item of one part, float32 (D,); none where the part is not embedded."""
        if not self._path(part).exists():
            return {}
        table = self.read(part, ["item_id", "image_vector"])
        return dict(zip(table["item_id"].to_pylist(), _matrix(table["image_vector"]), strict=True))

    def vectors(self, part: Part, item_ids: pa.Array) -> tuple[np.ndarray, np.ndarray]:
        """Image and text vectors, float32 (N, D) each, of some items of one part in their order; few others are read.

        Raises DamagedError where the part is not embedded, or doesn't hold them all.
        """
        batches = list(read_parquet(self._path(part), among=("item_id", item_ids)))
        stored = pa.concat_arrays([batch["item_id"] for batch in batches]) if batches else pa.array([], pa.string())
        place = pc.index_in(item_ids, value_set=stored)
        if place.null_count:
            raise DamagedError(f"{self._path(part)} lacks {place.null_count} of {len(item_ids)} items")
        found = pa.Table.from_batches(batches).take(place)
        return _matrix(found["image_vector"]), _matrix(found["text_vector"])

    def rows(self, part: Part, item_ids: Sequence[str]) -> list[dict[str, Any]]:
        """The rows of a few items of one part, as lists; little else of it is read."""
        wanted = ("item_id", pa.array(item_ids, pa.string()))
        return [row for batch in read_parquet(self._path(part), among=wanted) for row in batch.to_pylist()]

    def forget(self, part: Part) -> None:
        """Delete the vectors of one part: they are missing from then on."""
        self._path(part).unlink(missing_ok=True)

    def require_whole(self, path: Path, rows: int | None) -> None:
        """Read a file through. Raises DamagedError where it is not what was written, or has more rows than its part."""
        # Of fewer where items were gone when it was embedded.
        if require_whole(path) > (rows if rows is not None else inf):
            raise DamagedError(f"{path} has more rows than its corpus part")
        for batch in read_parquet(path, ["image_vector", "text_vector"]):
            if not all(pc.all(pc.is_finite(batch[name].flatten())).as_py() for name in batch.schema.names):
                raise DamagedError(f"{path} holds vectors that are not finite")

    def superseded(
        self, corpus: Corpus, snapshot: Snapshot, columns: Sequence[str]
    ) -> Iterator[tuple[dict[str, Any], np.ndarray, np.ndarray]]:
        """Rows that the last snapshot which this model has embedded held and `snapshot` does not, with their vectors.

        A row is its `item_id`, `stored_digest`, `texts` and `columns`; the vectors are float32 (D,).
        """
        before = self._embedded_before(corpus, snapshot)
        if before is None:
            return
        for part, gone in differing_parts(before, snapshot):
            table = self.read(part)
            position = {item_id: row for row, item_id in enumerate(table["item_id"].to_pylist())}
            image_ND, text_ND = _matrix(table["image_vector"]), _matrix(table["text_vector"])
            names = ["item_id", "stored_digest", "texts", *columns]
            # Older parts name no digest of what is stored.
            names += [] if "stored_digest" in corpus.columns(before) else ["image"]
            for batch in corpus.read(before, part, names, among=None if gone is None else ("item_id", gone)):
                for row in batch.to_pylist():
                    # An item that was gone when this model embedded the part has no vectors in it.
                    place = position.get(row["item_id"])
                    if place is not None:
                        row["stored_digest"] = row["stored_digest"] or bytes_digest(row["image"]["bytes"])
                        yield row, image_ND[place], text_ND[place]

    def matrices(self, snapshot: Snapshot, item_ids: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """Image and text vectors, float32 (N, D) each, of `item_ids` in their order."""
        return self.matrix(snapshot, item_ids, "image_vector"), self.matrix(snapshot, item_ids, "text_vector")

    def matrix(self, snapshot: Snapshot, item_ids: Sequence[str], column: str) -> np.ndarray:
        """Vectors of one kind, float32 (N, D), of `item_ids` in their order; KeyError where one has none.

        No part is held beside another, and of those without any of these items only the ids are read.
        """
        places = {item_id: row for row, item_id in enumerate(item_ids)}
        found_ND, seen_N = np.empty((0, 0), np.float32), np.zeros(len(item_ids), bool)
        # A later part wins: it holds the updated version of an item.
        for part in snapshot.parts:
            ids = self.read(part, ["item_id"])["item_id"].to_pylist()
            own = np.array([places.get(item_id, -1) for item_id in ids], np.int64)
            if (own < 0).all():
                continue
            vectors_MD = _matrix(self.read(part, [column])[column])
            if not found_ND.size:
                found_ND = np.empty((len(item_ids), vectors_MD.shape[1]), np.float32)
            found_ND[own[own >= 0]] = vectors_MD[own >= 0]
            seen_N[own[own >= 0]] = True
        if not seen_N.all():
            raise KeyError(item_ids[int(np.argmin(seen_N))])
        return found_ND

    def _embedded_before(self, corpus: Corpus, snapshot: Snapshot) -> Snapshot | None:
        """The last snapshot before `snapshot` that this model has embedded wholly."""
        if not self.folder.is_dir():
            return None
        earlier = (each for each in corpus.log.newest_first() if each.number < snapshot.number)
        return next((each for each in earlier if each.parts and not self.missing(each)), None)

    def _path(self, part: Part) -> Path:
        return self.folder / f"part-{part.digest}.parquet"


def _matrix(column: pa.ChunkedArray) -> np.ndarray:
    flat = column.combine_chunks().flatten().to_numpy(zero_copy_only=False)
    return np.asarray(flat, dtype=np.float32).reshape(len(column), -1)
