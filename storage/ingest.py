"""Rows of the sources become items: known rows skipped, duplicates and bad rows recorded, parts written."""

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa

from pairloom.storage.corpus import Corpus, Part, Snapshot
from pairloom.storage.digest import digest
from pairloom.storage.images.config import IngestConfig
from pairloom.storage.images.decoding import decode
from pairloom.storage.images.stored_image import DecodedImage, RejectedImage
from pairloom.storage.schema import QUARANTINE, ColumnType, item_schema
from pairloom.storage.sources.columns import ColumnsConfig
from pairloom.storage.sources.config import SourceConfig
from pairloom.storage.sources.rows import RejectedRow, SourceRow, read_source

Progress = Callable[[int], None]
"""Called with the number of rows seen so far."""


@dataclass(frozen=True)
class RowCounts:
    """What became of the rows seen: each is new, unchanged, duplicate, filtered or quarantined."""

    seen: int = 0
    new: int = 0
    unchanged: int = 0
    duplicate: int = 0
    filtered: int = 0
    quarantined: int = 0
    removed: int = 0
    """Items that left the corpus because an updated row replaced them."""


@dataclass
class _Known:
    """What the corpus holds already, by the keys that tell new rows from old ones."""

    outcomes: dict[tuple[str, str], str] = field(default_factory=dict)
    """By (source, fingerprint)."""
    contents: dict[str, str] = field(default_factory=dict)
    """Content digest by item id."""
    parts: dict[str, str] = field(default_factory=dict)
    """Digest of the part that holds an item, by item id."""
    same: dict[str, str] = field(default_factory=dict)
    """Item id by digest of pixels and texts."""


class Ingest:
    """One pass over the sources, on top of one snapshot."""

    def __init__(self, corpus: Corpus, keep: Mapping[str, ColumnType], config: IngestConfig) -> None:
        self.corpus = corpus
        self.config = config
        # Before the base is read: whoever publishes after that takes this number away.
        self.number = corpus.log.next_number()
        self.base = corpus.current()
        self.schema = item_schema(keep)
        self.known = _known(corpus, self.base)
        self.counts: dict[str, int] = {}
        self.items: list[dict[str, Any]] = []
        self.rejected: list[dict[str, Any]] = []
        self.fresh: set[str] = set()
        self.parts: list[Part] = []
        self.quarantine: list[Part] = []
        self.tombstones: dict[str, list[str]] = {}

    def run(
        self, sources: Sequence[SourceConfig], columns: ColumnsConfig, progress: Progress | None = None
    ) -> tuple[Snapshot, RowCounts]:
        """Read every row of every source once; commit a snapshot if anything is new. Returns the current snapshot."""
        for source in sources:
            for row, image in decode(self._fresh_rows(source, columns, progress), self.config):
                self._take(row, image)
        self._write_items()
        if self.rejected:
            self.quarantine.append(self.corpus.write_quarantine(pa.Table.from_pylist(self.rejected, QUARANTINE)))
        counts = RowCounts(**self.counts)
        if not (self.parts or self.quarantine):
            return self.base, counts
        tombstones = {part: tuple(sorted(items)) for part, items in self.tombstones.items()}
        return self.corpus.commit(self.number, self.base, self.parts, self.quarantine, tombstones), counts

    def _fresh_rows(
        self, source: SourceConfig, columns: ColumnsConfig, progress: Progress | None
    ) -> Iterator[tuple[SourceRow, Path]]:
        for row in read_source(source, columns):
            self._count("seen")
            if progress and self.counts["seen"] % 100 == 0:
                progress(self.counts["seen"])
            before = self.known.outcomes.get((row.source, row.fingerprint)) or self.known.outcomes.get(
                (row.source, self._rejection(row))
            )
            if before is not None:
                self._count(before)
            elif isinstance(row, RejectedRow):
                self._count(row.outcome)
                # What a filter leaves out is a choice made again every night from the row alone: counted, not kept.
                if row.outcome != "filtered":
                    self._record(row, row.item_id, row.outcome, row.reason, row.message)
            else:
                yield row, row.image

    def _take(self, row: SourceRow, image: DecodedImage | RejectedImage) -> None:
        if isinstance(image, RejectedImage):
            return self._reject(row, row.item_id, image.outcome, image.reason, image.message)
        split = row.split or _split(row.group or image.pixel_hash, self.config)
        content = digest([image.pixel_hash, row.texts, row.group, split, _plain(row.metadata)])
        same = digest([image.pixel_hash, row.texts])
        item_id = row.item_id or digest([image.pixel_hash, row.texts[0]])
        before = self.known.contents.get(item_id)
        if before == content:
            return self._reject(row, item_id, "duplicate", "same-item", f"same content as item {item_id}")
        if item_id in self.fresh:
            message = f"another row of this run already has the id {item_id}: make the id column unique"
            return self._reject(row, item_id, "quarantined", "id-repeated", message)
        if self.known.same.get(same, item_id) != item_id:
            twin = self.known.same[same]
            return self._reject(row, item_id, "duplicate", "same-image-and-texts", f"duplicate of {twin}")
        if before is not None:
            self.tombstones.setdefault(self.known.parts[item_id], []).append(item_id)
            self._count("removed")
        self.known.contents[item_id] = content
        self.known.same[same] = item_id
        self.fresh.add(item_id)
        self._count("new")
        self.items.append(
            {
                **row.metadata,
                "item_id": item_id,
                "image": {"bytes": image.content, "path": row.image_path},
                "texts": list(row.texts),
                "group": row.group,
                "split": split,
                "content_digest": content,
                "pixel_hash": image.pixel_hash,
                "perceptual_hash": image.perceptual_hash,
                "width": image.width,
                "height": image.height,
                "source": row.source,
                "fingerprint": row.fingerprint,
                "ingested_at": datetime.now(UTC),
            }
        )
        if len(self.items) >= self.config.part_rows:
            self._write_items()
        return None

    def _reject(self, row: SourceRow, item_id: str | None, outcome: str, reason: str, message: str) -> None:
        self._count(outcome)
        self._record(row, item_id, outcome, reason, message)

    def _record(
        self, row: SourceRow | RejectedRow, item_id: str | None, outcome: str, reason: str, message: str
    ) -> None:
        self.rejected.append(
            {
                "fingerprint": self._rejection(row),
                "source": row.source,
                "row": row.number,
                "item_id": item_id,
                "image_path": row.image_path,
                "outcome": outcome,
                "reason": reason,
                "message": message,
                "attempts": 1,
                "rejected_at": datetime.now(UTC),
            }
        )

    def _rejection(self, row: SourceRow | RejectedRow) -> str:
        """Under which fingerprint a row is rejected: other limits try it again."""
        return digest([row.fingerprint, self.config.min_side, self.config.max_pixels])

    def _write_items(self) -> None:
        if self.items:
            items = pa.Table.from_pylist(self.items, self.schema)
            self.parts.append(self.corpus.write_items(items, self.base))
            self.items = []

    def _count(self, outcome: str) -> None:
        self.counts[outcome] = self.counts.get(outcome, 0) + 1


def _known(corpus: Corpus, snapshot: Snapshot) -> _Known:
    known = _Known()
    columns = ["item_id", "source", "fingerprint", "content_digest", "pixel_hash", "texts"]
    for batch in corpus.rejected(snapshot, ["source", "fingerprint", "outcome"]):
        for row in batch.to_pylist():
            known.outcomes[row["source"], row["fingerprint"]] = row["outcome"]
    for part in snapshot.parts:
        for batch in corpus.read(snapshot, part, columns):
            for row in batch.to_pylist():
                known.outcomes[row["source"], row["fingerprint"]] = "unchanged"
                known.contents[row["item_id"]] = row["content_digest"]
                known.parts[row["item_id"]] = part.digest
                known.same[digest([row["pixel_hash"], row["texts"]])] = row["item_id"]
    return known


def _split(key: str, config: IngestConfig) -> str:
    """train, val or test by a hash of `key`, so that a group is never torn apart and never moves."""
    position = int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big") / 2**64
    if position < config.val_fraction:
        return "val"
    return "test" if position < config.val_fraction + config.test_fraction else "train"


def _plain(metadata: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value.isoformat() if isinstance(value, datetime) else value for name, value in metadata.items()}
