"""The corpus: immutable Parquet parts of items, and the numbered snapshots that say which parts make it."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from pairloom.storage.digest import digest
from pairloom.storage.files import FileDigests, digest_files
from pairloom.storage.parquet import read_parquet, read_schema, write_parquet
from pairloom.storage.schema import ARROW_TYPES, ColumnType, item_schema
from pairloom.storage.snapshots import EMPTY, Part, Snapshot, SnapshotLog
from pairloom.storage.sources.columns import typed

__all__ = ["EMPTY", "SPLITS", "Corpus", "Part", "Snapshot"]

SPLITS = ("train", "val", "test")
"""In the order of their rows in a part; in arrays their places here stand for them, and -1 for none."""


class Corpus:
    """The items of one pipeline, below its folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.log = SnapshotLog(folder)

    def current(self) -> Snapshot:
        """The current snapshot; EMPTY, number 0, before the first."""
        return self.log.current() or EMPTY

    def continued(self) -> tuple[int, Snapshot]:
        """The number of the next snapshot, and the current one that it is to come after: whoever publishes another one
        meanwhile takes that number away."""
        log = self.log.as_listed()
        return log.next_number(), log.current() or EMPTY

    def write_items(self, items: pa.Table, base: Snapshot) -> Part:
        """Write one part on top of `base`, named by its items and their content. Twice is the same as once.

        Its rows are sorted by split: who reads one split reads nothing of the others.
        """
        order = pc.index_in(items["split"], pa.array(SPLITS))
        items = items.take(pc.sort_indices(order))
        identity = [items[name].to_pylist() for name in ("item_id", "content_digest", "split")]
        return self._write("corpus", items, digest([base.number, *identity]), apart="split")

    def write_quarantine(self, rejected: pa.Table, besides: Sequence[Part] = ()) -> Part:
        """Write one part of rejected rows, named by all that it says of them but the times; never one of `besides`."""
        identity = digest(rejected.drop_columns(["rejected_at"]).to_pydict())
        while identity in {part.digest for part in besides}:
            identity = digest([identity, "again"])
        return self._write("quarantine", rejected, identity)

    def commit(self, snapshot: Snapshot, known: FileDigests) -> Snapshot:
        """Publish `snapshot` without the parts that hold no living item; its files are digested here.

        Digests that are `known` are taken over. Raises StaleWriterError where another run took the number first.
        """
        dead = snapshot.tombstones
        parts = tuple(part for part in snapshot.parts if len(dead.get(part.digest, ())) < part.rows)
        files = [_path(self.folder, "corpus", part) for part in parts]
        files += [_path(self.folder, "quarantine", part) for part in snapshot.quarantine]
        whole = snapshot.model_copy(
            update={
                "files": digest_files(self.folder, iter(files), known),
                "parts": parts,
                "tombstones": {part.digest: dead[part.digest] for part in parts if dead.get(part.digest)},
            }
        )
        whole = self.log.with_manifest(whole)
        self.log.publish(whole)
        return whole

    def read(
        self,
        snapshot: Snapshot,
        part: Part,
        columns: Sequence[str] | None = None,
        *,
        among: tuple[str, pa.Array] | None = None,
    ) -> Iterator[pa.RecordBatch]:
        """The living items of one part in their order, `columns` only (all of the snapshot's by default).

        `among` is `item_id` or `split` and the values wanted, and only items with one are read; images of others only
        where they stand in a row group with one.
        A column that the part lacks is null; a metadata column of another type is cast, and null where that fails.
        """
        path = _path(self.folder, "corpus", part)
        present = set(read_schema(path).names)
        schema = _schema(snapshot)
        if columns is None:
            columns = schema.names if snapshot.keep is not None else read_schema(path).names
        absent = {name for name in columns if name not in present and name in schema.names}
        gone = snapshot.tombstones.get(part.digest, ())
        stored = [name for name in dict.fromkeys(columns) if name not in absent]
        if (gone and "item_id" not in stored) or not stored:
            stored.append("item_id")
        # An array of no ids would import pandas all the same: more than all else that a night without news imports.
        dead = pa.array(gone, pa.string()) if gone else None
        for batch in read_parquet(path, stored, among=among):
            living = batch if dead is None else batch.filter(pc.invert(pc.is_in(batch["item_id"], value_set=dead)))
            arrays = [
                pa.nulls(len(living), schema.field(name).type)
                if name in absent
                else _cast(living[name], name, snapshot.keep or {})
                for name in columns
            ]
            yield pa.RecordBatch.from_arrays(arrays, names=list(columns))

    def table(self, snapshot: Snapshot, columns: Sequence[str]) -> pa.Table:
        """`columns` of all living items, in the corpus' order. Never ask it for images of a large corpus."""
        batches = [batch for part in snapshot.parts for batch in self.read(snapshot, part, columns)]
        return pa.Table.from_batches(batches) if batches else pa.table({name: [] for name in columns})

    def part_path(self, part: Part) -> Path:
        """The file of one part."""
        return _path(self.folder, "corpus", part)

    def part_ids(self, snapshot: Snapshot, part: Part) -> pa.ChunkedArray:
        """Ids of the living items of one part."""
        return pa.chunked_array([batch["item_id"] for batch in self.read(snapshot, part, ["item_id"])], pa.string())

    def image_paths(self, part: Part) -> dict[str, str]:
        """Each image's path as its source wrote it, by item id; no image is read."""
        batches = read_parquet(_path(self.folder, "corpus", part), ["item_id", "image.path"])
        return {row["item_id"]: row["image"]["path"] for batch in batches for row in batch.to_pylist()}

    def columns(self, snapshot: Snapshot) -> list[str]:
        """Names of the columns that its items have."""
        if snapshot.keep is not None:
            return list(_schema(snapshot).names)
        names = [read_schema(_path(self.folder, "corpus", part)).names for part in snapshot.parts]
        return [name for name in names[0] if all(name in each for each in names)] if names else []

    def rejected(self, snapshot: Snapshot, columns: Sequence[str] | None = None) -> Iterator[pa.RecordBatch]:
        """All rejected rows."""
        for part in snapshot.quarantine:
            yield from read_parquet(_path(self.folder, "quarantine", part), columns)

    def _write(self, kind: str, table: pa.Table, identity: str, *, apart: str | None = None) -> Part:
        part = Part(digest=identity, rows=table.num_rows)
        path = _path(self.folder, kind, part)
        if path.is_file():
            # What a killed run has left: young again, and no garbage.
            path.touch()
        else:
            write_parquet(table, path, apart=apart)
        return part


def _schema(snapshot: Snapshot) -> pa.Schema:
    return item_schema(snapshot.keep or {})


def _cast(array: pa.Array, name: str, keep: Mapping[str, ColumnType]) -> pa.Array:
    """A stored column as the snapshot has it: a metadata column's type may have changed since its part was written."""
    if name not in keep or array.type == ARROW_TYPES[keep[name]]:
        return array
    return pa.array([_typed(value, keep[name]) for value in array.to_pylist()], ARROW_TYPES[keep[name]])


def _typed(value: object, kind: ColumnType) -> object:
    try:
        return typed(value.isoformat() if hasattr(value, "isoformat") else value, kind)
    except (ValueError, TypeError, OverflowError):
        return None


def _path(folder: Path, kind: str, part: Part) -> Path:
    return folder / kind / f"part-{part.digest}.parquet"
