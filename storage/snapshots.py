"""Numbered states of the corpus: a record that names a manifest, which names the parts and what is dead in them."""

import json
from functools import lru_cache
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from pairloom.storage.digest import digest
from pairloom.storage.files import DamagedError, FileDigest, FileDigests, content_digest, read_unchanging, written_aside
from pairloom.storage.objects import ObjectPath
from pairloom.storage.records import Record, RecordLog
from pairloom.storage.schema import ColumnType

_MANIFESTS = "manifests/"


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
    keep: dict[str, ColumnType] | None = None
    """The pipeline's own metadata columns, whatever a part has; None in older records: those that all parts have."""
    trim: bool = False
    """Whether its pictures are cut to their content boxes; not in records older than this field."""

    @property
    def digest(self) -> str:
        """Identity of the items, whatever was rejected beside them."""
        parts = [part.digest for part in self.parts]
        # As it was before there was the one or the other.
        told = [*([] if self.keep is None else [self.keep]), *(["trim"] if self.trim else [])]
        return digest([parts, self.tombstones, *told])

    @property
    def identity(self) -> str:
        """Of the snapshot with all that stands in it."""
        return digest([self.number, self.digest, [part.digest for part in self.quarantine]])

    @property
    def rows(self) -> int:
        """Items in this state of the corpus."""
        return sum(part.rows for part in self.parts) - sum(len(dead) for dead in self.tombstones.values())


EMPTY = Snapshot(number=0, files={}, parts=(), quarantine=(), tombstones={})


class _Manifest(BaseModel, frozen=True, extra="forbid"):
    """What grows with the corpus: kept out of the record, which every reader and writer opens."""

    parts: tuple[Part, ...]
    quarantine: tuple[Part, ...]
    tombstones: dict[str, tuple[str, ...]]
    files: FileDigests


class SnapshotLog(RecordLog[Snapshot]):
    """The snapshots of one pipeline. Records of earlier versions hold themselves what a manifest holds now."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, "snapshot", Snapshot)

    def with_manifest(self, snapshot: Snapshot) -> Snapshot:
        """Write the manifest of a snapshot; it is one of its files from then on."""
        manifest = _Manifest(**{name: getattr(snapshot, name) for name in _Manifest.model_fields})
        text = manifest.model_dump_json(indent=1)
        name, content = f"{_MANIFESTS}snapshot-{digest(text)}.json", text.encode()
        path = self.folder / name
        if path.is_file():
            path.touch()
        else:
            with written_aside(path) as aside:
                aside.write_bytes(content)
        return snapshot.model_copy(update={"files": {**snapshot.files, name: content_digest(content)}})

    def _document(self, record: Snapshot) -> dict[str, Any]:
        manifest = {name: each for name, each in record.files.items() if name.startswith(_MANIFESTS)}
        assert len(manifest) == 1, "a snapshot is published with its manifest"
        return record.model_copy(update={"files": manifest}).model_dump(
            mode="json", include={"number", "files", "keep", "trim"}
        )

    def _understood(self, document: dict[str, Any]) -> Snapshot:
        if "parts" in document:
            return super()._understood(document)
        ((name, expected),) = document["files"].items()
        read = _manifest_there if isinstance(self.folder, ObjectPath) else _manifest
        manifest = json.loads(read(self.folder, name, FileDigest.model_validate(expected)))
        files = {**manifest["files"], name: expected}
        return super()._understood({**document, **manifest, "files": files})


def _manifest(folder: Path, name: str, expected: FileDigest) -> bytes:
    """What stands in a manifest. Raises DamagedError where that is not what was recorded."""
    try:
        content = read_unchanging(folder / name)
    except FileNotFoundError as error:
        raise DamagedError(f"{name} is missing") from error
    if content_digest(content) != expected:
        raise DamagedError(f"{name} has other contents than recorded")
    return content


_manifest_there = lru_cache(maxsize=4)(_manifest)
"""Its name and digest say what is in it, so that a night asks object storage once for what its stages read in turn."""
