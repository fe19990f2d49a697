"""Features: what a frozen trunk makes of each item's stored image, one Parquet file per trunk and corpus part."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from pairloom.storage.changes import differing_parts
from pairloom.storage.corpus import Corpus, Part, Snapshot
from pairloom.storage.parquet import read_parquet, write_parquet
from pairloom.storage.part_files import PartFiles, matrix_of, vector_array
from pairloom.storage.schema import feature_schema


class FeatureStore(PartFiles):
    """The features by one trunk, below a pipeline's folder. Every model with that trunk reads the same."""

    vector_columns = ("features",)
    again = "looked at"

    def __init__(self, folder: Path, trunk: str) -> None:
        """`trunk` is the digest of all that the features follow from, beside the images."""
        super().__init__(folder, "features", trunk)

    def write(self, part: Part, item_ids: Sequence[str], digests: Sequence[str | None], feature_NF: np.ndarray) -> None:
        """Write one part's features, float32 (N, F), in one step. `digests` are the stored images'."""
        schema = feature_schema(feature_NF.shape[1])
        columns = [pa.array(item_ids, pa.string()), pa.array(digests, pa.string()), vector_array(feature_NF)]
        write_parquet(pa.table(columns, schema=schema), self._path(part))

    def of_part(self, part: Part) -> dict[str, np.ndarray]:
        """The features of each item of one part, float32 (F,)."""
        table = self.read(part, ["item_id", "features"])
        return dict(zip(table["item_id"].to_pylist(), matrix_of(table["features"]), strict=True))

    def superseded(self, corpus: Corpus, snapshot: Snapshot) -> dict[str, np.ndarray]:
        """Features of images that the last snapshot with features held in rows that `snapshot` has not, by the stored
        image's digest: what only moved, or got other texts, is not looked at again."""
        before = self.made_before(corpus, snapshot)
        found: dict[str, np.ndarray] = {}
        for part, gone in differing_parts(before, snapshot) if before else ():
            among = None if gone is None else ("item_id", gone)
            for batch in read_parquet(self._path(part), ["stored_digest", "features"], among=among):
                table = pa.Table.from_batches([batch])
                found.update(zip(table["stored_digest"].to_pylist(), matrix_of(table["features"]), strict=True))
        return {digest: feature_F for digest, feature_F in found.items() if digest is not None}
