"""Features: what a frozen trunk makes of each item's image or texts, one Parquet file per trunk and corpus part."""

from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from pairloom.storage.changes import differing_parts
from pairloom.storage.corpus import Corpus, Part, Snapshot
from pairloom.storage.parquet import read_parquet, write_parquet
from pairloom.storage.part_files import PartFiles, matrix_of, vector_array
from pairloom.storage.schema import feature_schema


class FeatureStore(PartFiles):
    """The features of images by one trunk, below a pipeline's folder. Every model with that trunk reads the same."""

    kind = "features"
    vector_columns = ("features",)
    again = "looked at"

    def __init__(self, folder: Path, trunk: str) -> None:
        """`trunk` is the digest of all that the features follow from, beside the images or texts."""
        super().__init__(folder, self.kind, trunk)

    def write(self, part: Part, item_ids: Sequence[str], digests: Sequence[str | None], feature_NF: np.ndarray) -> None:
        """Write one part's features, float32 (N, F), in one step. `digests` are the stored images', or the texts'."""
        schema = feature_schema(feature_NF.shape[1])
        columns = [pa.array(item_ids, pa.string()), pa.array(digests, pa.string()), vector_array(feature_NF)]
        write_parquet(pa.table(columns, schema=schema), self._path(part))

    def of_part(self, part: Part) -> dict[str, np.ndarray]:
        """The features of each item of one part, float32 (F,)."""
        table = self.read(part, ["item_id", "features"])
        return dict(zip(table["item_id"].to_pylist(), matrix_of(table["features"]), strict=True))

    def superseded(self, corpus: Corpus, snapshot: Snapshot, wanted: Collection[str]) -> dict[str, np.ndarray]:
        """Features of what `wanted` names by its digests, as far as the last snapshot with features had it in parts
        that changed since: what only moved, or is of other items now, passes the trunk once."""
        before = self.made_before(corpus, snapshot)
        found: dict[str, np.ndarray] = {}
        for part, _ in differing_parts(before, snapshot) if before else ():
            found.update(self.of_digests(part, wanted))
        return found

    def of_digests(self, part: Part, wanted: Collection[str]) -> dict[str, np.ndarray]:
        """Those in one part's file of what `wanted` names by its digests, float32 (F,)."""
        among = ("stored_digest", pa.array(sorted(wanted), pa.string()))
        found: dict[str, np.ndarray] = {}
        for batch in read_parquet(self._path(part), ["stored_digest", "features"], among=among):
            table = pa.Table.from_batches([batch])
            found.update(zip(table["stored_digest"].to_pylist(), matrix_of(table["features"]), strict=True))
        return found


class TextFeatureStore(FeatureStore):
    """The same of texts: a row is one of the part's texts, with the first of its items that has it."""

    kind = "text_features"
    again = "read"
    row_an_item = False
