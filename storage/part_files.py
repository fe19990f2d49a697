"""What is made of the corpus part by part: one Parquet file a corpus part, in a folder named after what made it."""

import logging
from collections.abc import Sequence
from math import inf
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pairloom.storage.checked import CheckedFiles
from pairloom.storage.corpus import Corpus, Part, Snapshot
from pairloom.storage.files import DamagedError, statuses
from pairloom.storage.parquet import read_parquet, require_whole

logger = logging.getLogger(__name__)


class PartFiles:
    """The files in one folder below a pipeline's; rows begin with an item's `item_id`, vectors are float32."""

    vector_columns: tuple[str, ...]
    again: str
    """What happens to the items of a file that is dropped."""
    row_an_item = True
    """Whether a file has no more rows than its corpus part."""

    def __init__(self, folder: Path, kind: str, maker: str) -> None:
        self._pipeline = folder
        self.folder = folder / kind / maker

    def missing(self, snapshot: Snapshot) -> list[Part]:
        """The parts of `snapshot` that have no file yet: what a night costs."""
        there = statuses(self.folder, [self._path(part).name for part in snapshot.parts])
        return [part for part in snapshot.parts if self._path(part).name not in there]

    def drop_damaged(self, snapshot: Snapshot) -> list[Part]:
        """Delete the files of `snapshot` that are not what was written; returns the parts that have no file then."""
        checked, folder = CheckedFiles(self._pipeline), self.folder.relative_to(self._pipeline).as_posix()
        absent, missing = {part.digest for part in self.missing(snapshot)}, []
        for part in snapshot.parts:
            path = self._path(part)
            if part.digest in absent:
                missing.append(part)
            elif not checked.whole(f"{folder}/{path.name}"):
                logger.warning("%d items of %s are %s anew", part.rows, path.name, self.again)
                path.unlink()
                missing.append(part)
        checked.save()
        return missing

    def read(self, part: Part, columns: Sequence[str] | None = None) -> pa.Table:
        """The rows of one part, dead items included: all columns, or `columns` of them."""
        path = self._path(part)
        try:
            return pa.Table.from_batches(read_parquet(path, columns))
        except DamagedError:
            # A disk may change what it holds without a word: the next night looks again, and makes it anew.
            CheckedFiles(self._pipeline).forget(path.relative_to(self._pipeline).as_posix())
            raise

    def forget(self, part: Part) -> None:
        """Delete the file of one part: it is missing from then on."""
        self._path(part).unlink(missing_ok=True)

    def require_whole(self, path: Path, rows: int | None) -> None:
        """Read a file through. Raises DamagedError where it is not what was written, or has more rows than its part."""
        # Of fewer where items were gone when it was made.
        if require_whole(path) > (rows if rows is not None and self.row_an_item else inf):
            raise DamagedError(f"{path} has more rows than its corpus part")
        for batch in read_parquet(path, self.vector_columns):
            if not all(pc.all(pc.is_finite(batch[name].flatten())).as_py() for name in batch.schema.names):
                raise DamagedError(f"{path} holds vectors that are not finite")

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
            vectors_MD = matrix_of(self.read(part, [column])[column])
            if not found_ND.size:
                found_ND = np.empty((len(item_ids), vectors_MD.shape[1]), np.float32)
            found_ND[own[own >= 0]] = vectors_MD[own >= 0]
            seen_N[own[own >= 0]] = True
        if not seen_N.all():
            raise KeyError(item_ids[int(np.argmin(seen_N))])
        return found_ND

    def made_before(self, corpus: Corpus, snapshot: Snapshot) -> Snapshot | None:
        """The last snapshot before `snapshot` all of whose parts have files."""
        if not self.folder.is_dir():
            return None
        earlier = (each for each in corpus.log.newest_first() if each.number < snapshot.number)
        return next((each for each in earlier if each.parts and not self.missing(each)), None)

    def _path(self, part: Part) -> Path:
        return self.folder / f"part-{part.digest}.parquet"


def matrix_of(column: pa.ChunkedArray) -> np.ndarray:
    """A column of vectors as float32 (N, D)."""
    flat = column.combine_chunks().flatten().to_numpy(zero_copy_only=False)
    return np.asarray(flat, dtype=np.float32).reshape(len(column), -1)


def vector_array(vectors_ND: np.ndarray) -> pa.FixedSizeListArray:
    """Vectors (N, D) as a column of float32 lists."""
    return pa.FixedSizeListArray.from_arrays(pa.array(vectors_ND.ravel(), pa.float32()), vectors_ND.shape[1])
