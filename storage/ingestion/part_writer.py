"""Writes parts: rows with new bytes as they come, rows that take theirs from an older part at the end."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa

from pairloom.storage.corpus import Corpus, Part, Snapshot
from pairloom.storage.images.stored_image import DecodedImage
from pairloom.storage.ingestion.living import Place, part_rows
from pairloom.storage.schema import ColumnType, item_schema

Values = dict[str, Any]
"""Values of an item by column; of `image` the path alone, under `path`."""


class PartWriter:
    """The parts that one ingest adds to a snapshot, and the rows that they supersede."""

    def __init__(self, corpus: Corpus, base: Snapshot, keep: Mapping[str, ColumnType], part_rows: int) -> None:
        self._corpus = corpus
        self._base = base
        self._keep = dict(keep)
        self._schema = item_schema(keep)
        self._part_rows = part_rows
        self._waiting: list[Values] = []
        self._copies: dict[str, list[tuple[str, Values]]] = {}
        self.parts: list[Part] = []

    def add(self, values: Values, image: DecodedImage) -> None:
        """One row with its image. Its split may still change: see `resplit`."""
        stored = {"bytes": image.content, "path": values.pop("path")}
        new = {"image": stored, "thumbnail": image.thumbnail, "ingested_at": datetime.now(UTC)}
        self._waiting.append({**values, **new})
        if len(self._waiting) >= self._part_rows:
            self._flush()

    def copy(self, place: Place, values: Values) -> None:
        """One row with what another one has, its bytes above all, but for `values`."""
        self._copies.setdefault(place.part, []).append((place.item_id, values))

    def resplit(self, splits: Mapping[str, str]) -> dict[str, list[str]]:
        """Give rows that were added the split that they have in `splits`; returns rows that are dead now, by part."""
        for values in self._waiting:
            values["split"] = splits[values["item_id"]]
        dead: dict[str, list[str]] = {}
        for part in self.parts:
            snapshot = self._base.model_copy(update={"keep": self._keep, "tombstones": {}})
            for batch in self._corpus.read(snapshot, part, ["item_id", "split"]):
                for row in batch.to_pylist():
                    if row["split"] != splits[row["item_id"]]:
                        self.copy(Place(part.digest, row["item_id"]), {"split": splits[row["item_id"]]})
                        dead.setdefault(part.digest, []).append(row["item_id"])
        return dead

    def finish(self) -> None:
        """Write what waits."""
        # In tonight's schema, and with what died tonight or earlier: bytes of a superseded row are as good as any.
        snapshot = self._base.model_copy(update={"keep": self._keep, "tombstones": {}})
        for part in (*self._base.parts, *self.parts):
            if copies := self._copies.pop(part.digest, []):
                changes: dict[str, list[Values]] = {}
                for item_id, values in copies:
                    changes.setdefault(item_id, []).append(values)
                for row in part_rows(self._corpus, snapshot, part, list(changes), self._schema.names):
                    for values in changes[row["item_id"]]:
                        self._add_copy(row, values)
        self._flush()

    def _add_copy(self, row: Values, values: Values) -> None:
        image = {"bytes": row["image"]["bytes"], "path": values.get("path", row["image"]["path"])}
        new = {name: value for name, value in values.items() if name != "path"}
        self._waiting.append({**row, **new, "image": image, "ingested_at": datetime.now(UTC)})
        if len(self._waiting) >= self._part_rows:
            self._flush()

    def _flush(self) -> None:
        if self._waiting:
            self.parts.append(self._corpus.write_items(pa.Table.from_pylist(self._waiting, self._schema), self._base))
            self._waiting = []
