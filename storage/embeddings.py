"""Embeddings: one Parquet file per model and corpus part, both vectors of every item."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pairloom.storage.changes import differing_parts
from pairloom.storage.corpus import Corpus, Part, Snapshot
from pairloom.storage.digest import bytes_digest
from pairloom.storage.files import DamagedError
from pairloom.storage.parquet import read_parquet, write_parquet
from pairloom.storage.part_files import PartFiles, matrix_of, vector_array
from pairloom.storage.schema import VECTOR_COLUMNS, embedding_schema


class EmbeddingStore(PartFiles):
    """The embeddings of one model, below a pipeline's folder."""

    vector_columns = VECTOR_COLUMNS
    again = "embedded"

    def __init__(self, folder: Path, model_id: str) -> None:
        super().__init__(folder, "embeddings", model_id)

    def write(self, part: Part, item_ids: Sequence[str], image_ND: np.ndarray, text_ND: np.ndarray) -> None:
        """Write one part's vectors, float32 (N, D), in one step. Raises ValueError where one is not finite."""
        for name, vectors_ND in (("image", image_ND), ("text", text_ND)):
            if not np.isfinite(vectors_ND).all():
                raise ValueError(f"{name} vectors of part {part.digest} by model {self.folder.name} are not finite")
        dimension = image_ND.shape[1]
        vectors = [vector_array(vectors_ND) for vectors_ND in (image_ND, text_ND)]
        schema = embedding_schema(dimension)
        write_parquet(pa.table([pa.array(item_ids, pa.string()), *vectors], schema=schema), self._path(part))

    def item_vectors(self, part: Part, column: str) -> dict[str, np.ndarray]:
        """The vector of one kind of each item of one part, float32 (D,); none where the part is not embedded."""
        if not self._path(part).is_file():
            return {}
        table = self.read(part, ["item_id", column])
        return dict(zip(table["item_id"].to_pylist(), matrix_of(table[column]), strict=True))

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
        return matrix_of(found["image_vector"]), matrix_of(found["text_vector"])

    def rows(self, part: Part, item_ids: Sequence[str]) -> list[dict[str, Any]]:
        """The rows of a few items of one part, as lists; little else of it is read."""
        wanted = ("item_id", pa.array(item_ids, pa.string()))
        return [row for batch in read_parquet(self._path(part), among=wanted) for row in batch.to_pylist()]

    def superseded(
        self, corpus: Corpus, snapshot: Snapshot, columns: Sequence[str]
    ) -> Iterator[tuple[dict[str, Any], np.ndarray, np.ndarray]]:
        """Rows that the last snapshot which this model has embedded held and `snapshot` does not, with their vectors.

        A row is its `item_id`, `stored_digest`, `texts` and `columns`; the vectors are float32 (D,).
        """
        before = self.made_before(corpus, snapshot)
        if before is None:
            return
        for part, gone in differing_parts(before, snapshot):
            table = self.read(part)
            position = {item_id: row for row, item_id in enumerate(table["item_id"].to_pylist())}
            image_ND, text_ND = matrix_of(table["image_vector"]), matrix_of(table["text_vector"])
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
