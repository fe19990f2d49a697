"""What was made of each source row last night, by what the row says: saves work, decides nothing, can be deleted."""

# N = rows, Q = digests asked for

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from enum import IntEnum
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel, ValidationError

from pairloom.storage.files import DamagedError
from pairloom.storage.objects import readable
from pairloom.storage.parquet import damage_told, sealed_aside
from pairloom.storage.parquet_seal import broken
from pairloom.storage.schema import KNOWN_ROWS

logger = logging.getLogger(__name__)


class DamagedRowsError(DamagedError):
    """What is known of rows can't be read."""


class Checked(IntEnum):
    """What must be looked at before a known row can be taken for what it was."""

    NOTHING = 0
    """What the row says decided."""
    FILE = 1
    """The image file at `image`."""
    INSIDE = 2
    """The version of an image that is in the source itself."""
    EVERYTHING = 3
    """It is read as if it were new."""


class Trim(IntEnum):
    """What `ingest.trim` did to the image of a row."""

    OFF = 0
    """It was not looked for a content box."""
    NEEDLESS = 1
    """It has none: it is stored as without the setting."""
    DONE = 2
    """It was cut."""


class KnownSource(BaseModel, frozen=True, extra="forbid"):
    """Where the rows of one source are."""

    identity: str
    """Digest of all that decides how its rows are read."""
    version: str | None
    """What its kind said of it as a whole."""
    start: int
    rows: int


class LastNight(BaseModel, frozen=True, extra="forbid"):
    """What the rows became together."""

    base: str
    """Digest of the snapshot that they are in."""
    rules: str
    """Digest of what decides which rows are items."""
    sources: tuple[KnownSource, ...]
    compared: str
    """Digest of what was known of near-duplicates; empty where they are kept."""
    counts: dict[str, int] | None
    """What became of the rows; None where one more night over the same rows might find something to do."""


class KnownRows:
    """The rows of a pipeline's sources, in their order, as its last ingest found them; rows that were gone after them.

    Columns are read when they are asked for. Raises DamagedRowsError then.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._columns: dict[str, pa.Array] = {}
        self._near: dict[str, tuple[int, int, pa.Array]] = {}
        self.last: LastNight | None = None
        self.rows = 0
        if not path.is_file():
            return
        try:
            with damage_told(path):
                source = readable(path)
                if broken(source):
                    raise DamagedError(f"{path} can't be read: its footer is not what was written")
                self._file = file = pq.ParquetFile(source, page_checksum_verification=True)
            if not file.schema_arrow.equals(KNOWN_ROWS) and not file.schema_arrow.equals(_BEFORE_TRIM):
                raise DamagedError("they have other columns")
            self.last = LastNight.model_validate_json((file.schema_arrow.metadata or {})[b"pairloom"])
            self.rows = file.metadata.num_rows
        except (KeyError, ValidationError, DamagedError) as error:
            self.forget_all(error)

    @property
    def listed(self) -> int:
        """How many of the rows, the first ones, were there last night."""
        return sum(source.rows for source in self.last.sources) if self.last else 0

    def forget_all(self, error: Exception) -> None:
        """Know nothing."""
        logger.warning("all rows are read anew, and all images decoded: %s", error)
        self.last, self.rows, self._columns, self._near = None, 0, {}, {}
        vars(self).pop("_indexes", None)

    def column(self, name: str) -> pa.Array:
        """One column of all rows."""
        if name not in self._columns:
            if self.rows == 0:
                return pa.array([], KNOWN_ROWS.field(name).type)
            self._columns[name] = self._read(name, list(range(len(self._ends))))
        return self._columns[name]

    def take(self, name: str, rows: np.ndarray) -> pa.Array:
        """One column of some rows. Of rows that stand together only what is near them is held in memory."""
        if name in self._columns:
            return self._columns[name].take(_indices(rows))
        if not len(rows):
            return pa.nulls(0, KNOWN_ROWS.field(name).type)
        first, last = np.searchsorted(self._ends, [rows.min(), rows.max()], side="right").tolist()
        if last - first > 1:
            return self.column(name).take(_indices(rows))
        if name not in self._near or self._near[name][:2] != (first, last):
            self._near[name] = (first, last, self._read(name, list(range(first, last + 1))))
        start = self._ends[first - 1] if first else 0
        return self._near[name][2].take(_indices(rows - start))

    def numbers(self, name: str) -> np.ndarray:
        """The same as numbers (N,); of 16-byte digests as uint64 (N, 2)."""
        return as_numbers(self.column(name))

    def find(self, name: str, digests: np.ndarray) -> np.ndarray:
        """The first row with each of some 16-byte digests (Q, 2), -1 where there is none: int64 (Q,)."""
        if self.rows == 0 or len(digests) == 0:
            return np.full(len(digests), -1)
        if name not in self._indexes:
            self._indexes[name] = DigestIndex(self.numbers(name))
        return self._indexes[name].find(digests)

    def _read(self, name: str, groups: list[int]) -> pa.Array:
        try:
            with damage_told(self.path):
                if name not in self._file.schema_arrow.names:
                    rows = sum(self._file.metadata.row_group(group).num_rows for group in groups)
                    return pa.repeat(pa.scalar(Trim.OFF, KNOWN_ROWS.field(name).type), rows)
                column = self._file.read_row_groups(groups, [name], use_threads=False)[name].combine_chunks()
                # Page headers have no checksum: one may say that there is nothing.
                if len(column) != sum(self._file.metadata.row_group(group).num_rows for group in groups):
                    raise DamagedError(f"{self.path} can't be read: rows are missing in {name}")
                return column
        except DamagedError as error:
            raise DamagedRowsError(str(error)) from error

    @cached_property
    def _ends(self) -> np.ndarray:
        """Where the file's row groups end."""
        groups = self._file.metadata
        return np.cumsum([groups.row_group(group).num_rows for group in range(groups.num_row_groups)])

    @cached_property
    def _indexes(self) -> "dict[str, DigestIndex]":
        return {}


class DigestIndex:
    """Finds rows by 16-byte digests."""

    def __init__(self, digests: np.ndarray) -> None:
        self._order = np.argsort(digests[:, 0], kind="stable")
        self._sorted = digests[self._order]

    def find(self, digests: np.ndarray) -> np.ndarray:
        """The first row with each digest (Q, 2), -1 where there is none."""
        found = np.full(len(digests), -1)
        place = np.searchsorted(self._sorted[:, 0], digests[:, 0])
        # Almost always the first row with equal halves is equal as a whole.
        open_ = np.flatnonzero(place < len(self._sorted))
        while len(open_):
            candidates = self._sorted[place[open_]]
            whole = (candidates == digests[open_]).all(axis=1)
            found[open_[whole]] = self._order[place[open_[whole]]]
            open_ = open_[~whole & (candidates[:, 0] == digests[open_, 0])]
            place[open_] += 1
            open_ = open_[place[open_] < len(self._sorted)]
        return found


@contextmanager
def written(path: Path, last: LastNight) -> Iterator[pq.ParquetWriter]:
    """What writes known rows over those at `path`, whole or not at all."""
    schema = KNOWN_ROWS.with_metadata({"pairloom": last.model_dump_json()})
    with sealed_aside(path, schema, compression="LZ4", write_statistics=False) as writer:
        yield writer


_BEFORE_TRIM = pa.schema([field for field in KNOWN_ROWS if field.name != "trim"])
"""Those of versions that cut nothing: images at addresses are not fetched again for a column."""
FRESH = pa.schema([field for field in KNOWN_ROWS if field.name not in ("number", "became")])
# Lists of no values would import pandas.
NO_FRESH = pa.RecordBatch.from_arrays([pa.nulls(0, each.type) for each in FRESH], schema=FRESH)


def _indices(rows: np.ndarray) -> pa.Array:
    # `pa.array` would import pandas to see whether it has been given something of its.
    return pa.Array.from_buffers(pa.int64(), len(rows), [None, pa.py_buffer(np.ascontiguousarray(rows, np.int64))])


def as_numbers(array: pa.Array) -> np.ndarray:
    """An array without nulls as numbers (N,); of 16-byte digests as uint64 (N, 2)."""
    # `to_numpy` would import pandas.
    own = slice(array.offset, array.offset + len(array))
    content = array.buffers()[1] if len(array) else b""
    if pa.types.is_fixed_size_binary(array.type):
        return np.frombuffer(content, np.uint64).reshape(-1, array.type.byte_width // 8)[own]
    if pa.types.is_boolean(array.type):
        return np.unpackbits(np.frombuffer(content, np.uint8), bitorder="little")[own].astype(bool)
    return np.frombuffer(content, str(array.type))[own]
