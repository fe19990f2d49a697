"""The corpus: immutable Parquet parts of items, and the numbered snapshots that say which parts make it."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
from pydantic import BaseModel

from pairloom.storage.digest import digest
from pairloom.storage.files import digest_files
from pairloom.storage.parquet import read_parquet, read_schema, write_parquet
from pairloom.storage.records import Record, RecordLog


class Part(BaseModel, frozen=True, extra="forbid"):
    """One immutable Parquet file of items, named by what it holds."""

    digest: str
    rows: int


class Snapshot(Record, frozen=True):
    """One numbered state of the corpus."""

    parts: tuple[Part, ...]
    quarantine: tuple[Part, ...]
    tombstones: dict[str, tuple[str, ...]]
    """Items that a part still holds but the corpus no longer does, by the part's digest."""

    @property
    def digest(self) -> str:
        """Identity of the items, whatever was rejected beside them."""
        return digest([[part.digest for part in self.parts], self.tombstones])

    @property
    def rows(self) -> int:
        """Items in this state of the corpus."""
        return sum(part.rows for part in self.parts) - sum(len(dead) for dead in self.tombstones.values())


EMPTY = Snapshot(number=0, files={}, parts=(), quarantine=(), tombstones={})


class Corpus:
    """The items of one pipeline, below its folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.log = RecordLog(folder, "snapshot", Snapshot)

    def current(self) -> Snapshot:
        """The current snapshot; EMPTY, number 0, before the first."""
        return self.log.current() or EMPTY

    def write_items(self, items: pa.Table, base: Snapshot) -> Part:
        """Write one part on top of `base`, named by its items and their content. Twice is the same as once."""
        identity = [base.number, items["item_id"].to_pylist(), items["content_digest"].to_pylist()]
        return self._write("corpus", items, digest(identity))

    def write_quarantine(self, rejected: pa.Table) -> Part:
        """Write one part of rejected rows, named by their fingerprints and reasons."""
        identity = [rejected["fingerprint"].to_pylist(), rejected["reason"].to_pylist()]
        return self._write("quarantine", rejected, digest(identity))

    def commit(
        self,
        number: int,
        base: Snapshot,
        parts: Sequence[Part],
        quarantine: Sequence[Part],
        tombstones: dict[str, tuple[str, ...]],
    ) -> Snapshot:
        """Publish what follows `base`: its parts and these.

        `number` is the next one as it was before `base` was read: where another run was first, StaleWriterError.
        """
        dead = {
            each: (*base.tombstones.get(each, ()), *tombstones.get(each, ()))
            for each in sorted({*base.tombstones, *tombstones})
        }
        # A part without a living item leaves the corpus, and with it the columns that only it lacks.
        all_parts = tuple(part for part in (*base.parts, *parts) if len(dead.get(part.digest, ())) < part.rows)
        all_quarantine = (*base.quarantine, *quarantine)
        files = [_path(self.folder, "corpus", part) for part in all_parts]
        files += [_path(self.folder, "quarantine", part) for part in all_quarantine]
        snapshot = Snapshot(
            number=number,
            files=digest_files(self.folder, iter(files), base.files),
            parts=all_parts,
            quarantine=all_quarantine,
            tombstones={part.digest: dead[part.digest] for part in all_parts if part.digest in dead},
        )
        self.log.publish(snapshot)
        return snapshot

    def read(self, snapshot: Snapshot, part: Part, columns: Sequence[str] | None = None) -> Iterator[pa.RecordBatch]:
        """The living items of one part in their order, `columns` only (all by default)."""
        wanted = columns if columns is None or "item_id" in columns else ["item_id", *columns]
        gone = snapshot.tombstones.get(part.digest, ())
        # An array of no ids would import pandas all the same: more than all else that a night without news imports.
        dead = pa.array(gone, pa.string()) if gone else None
        for batch in read_parquet(_path(self.folder, "corpus", part), wanted):
            living = batch if dead is None else batch.filter(pc.invert(pc.is_in(batch["item_id"], value_set=dead)))
            yield living if columns is None else living.select(columns)

    def table(self, snapshot: Snapshot, columns: Sequence[str]) -> pa.Table:
        """`columns` of all living items, in the corpus' order. Never ask it for images of a large corpus."""
        batches = [batch for part in snapshot.parts for batch in self.read(snapshot, part, columns)]
        return pa.Table.from_batches(batches) if batches else pa.table({name: [] for name in columns})

    def part_ids(self, snapshot: Snapshot, part: Part) -> pa.ChunkedArray:
        """Ids of the living items of one part."""
        return pa.chunked_array([batch["item_id"] for batch in self.read(snapshot, part, ["item_id"])], pa.string())

    def columns(self, snapshot: Snapshot) -> list[str]:
        """Names of the columns that every part has."""
        names = [read_schema(_path(self.folder, "corpus", part)).names for part in snapshot.parts]
        return [name for name in names[0] if all(name in each for each in names)] if names else []

    def rejected(self, snapshot: Snapshot, columns: Sequence[str] | None = None) -> Iterator[pa.RecordBatch]:
        """All rejected rows."""
        for part in snapshot.quarantine:
            yield from read_parquet(_path(self.folder, "quarantine", part), columns)

    def _write(self, kind: str, table: pa.Table, identity: str) -> Part:
        part = Part(digest=identity, rows=table.num_rows)
        path = _path(self.folder, kind, part)
        if not path.exists():
            write_parquet(table, path)
        return part


def _path(folder: Path, kind: str, part: Part) -> Path:
    return folder / kind / f"part-{part.digest}.parquet"
