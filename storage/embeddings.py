"""Embeddings: one Parquet file per model and corpus part, both vectors of every item."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pairloom.storage.corpus import Corpus, Part, Snapshot
from pairloom.storage.digest import bytes_digest
from pairloom.storage.files import DamagedError
from pairloom.storage.parquet import read_parquet, write_parquet
from pairloom.storage.schema import embedding_schema


class EmbeddingStore:
    """The embeddings of one model, below a pipeline's folder."""

    def __init__(self, folder: Path, model_id: str) -> None:
        self.folder = folder / "embeddings" / model_id

    def missing(self, snapshot: Snapshot) -> list[Part]:
        """The parts of `snapshot` that this model has not embedded yet: what a night costs."""
        return [part for part in snapshot.parts if not self._path(part).exists()]

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

    def read(self, part: Part) -> pa.Table:
        """All vectors of one part, dead items included: item_id, image_vector, text_vector."""
        return pa.Table.from_batches(read_parquet(self._path(part)))

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

    def superseded(
        self, corpus: Corpus, snapshot: Snapshot, columns: Sequence[str]
    ) -> Iterator[tuple[dict[str, Any], np.ndarray, np.ndarray]]:
        """Rows that the last snapshot which this model has embedded held and `snapshot` does not, with their vectors.

        A row is its `item_id`, `stored_digest`, `texts` and `columns`; the vectors are float32 (D,).
        """
        before = self._embedded_before(corpus, snapshot)
        if before is None:
            return
        here = {part.digest for part in snapshot.parts}
        for part in before.parts:
            dead = set(snapshot.tombstones.get(part.digest, ())) - set(before.tombstones.get(part.digest, ()))
            if part.digest in here and not dead:
                continue
            table = self.read(part)
            position = {item_id: row for row, item_id in enumerate(table["item_id"].to_pylist())}
            image_ND, text_ND = _matrix(table["image_vector"]), _matrix(table["text_vector"])
            names = ["item_id", "stored_digest", "texts", *columns]
            # Older parts name no digest of what is stored.
            names += [] if "stored_digest" in corpus.columns(before) else ["image"]
            for batch in corpus.read(before, part, names):
                for row in batch.to_pylist():
                    if part.digest not in here or row["item_id"] in dead:
                        row["stored_digest"] = row["stored_digest"] or bytes_digest(row["image"]["bytes"])
                        place = position[row["item_id"]]
                        yield row, image_ND[place], text_ND[place]

    def matrices(self, snapshot: Snapshot, item_ids: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """Image and text vectors, float32 (N, D) each, of `item_ids` in their order."""
        table = pa.concat_tables([self.read(part) for part in snapshot.parts])
        # A later part wins: it holds the updated version of an item.
        position = {item_id: row for row, item_id in enumerate(table["item_id"].to_pylist())}
        rows = np.array([position[item_id] for item_id in item_ids])
        return _matrix(table["image_vector"])[rows], _matrix(table["text_vector"])[rows]

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
