"""Writes parts: rows with new bytes as they come, rows that take theirs from an older part at the end."""

from collections.abc import Collection, Iterable, Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pairloom.storage.corpus import EMPTY, SPLITS, Corpus, Part, Snapshot
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
        self._written: list[str] = []
        self._splits: list[str] = []
        self.parts: list[Part] = []

    def add(self, values: Values, image: DecodedImage) -> None:
        """One row with its image. It may still change: see `revise`."""
        stored = {"bytes": image.content, "path": values.pop("path")}
        new = {"image": stored, "thumbnail": image.thumbnail, "ingested_at": datetime.now(UTC)}
        self._waiting.append({**values, **new})
        if len(self._waiting) >= self._part_rows:
            self._flush()

    def copy(self, place: Place, values: Values) -> None:
        """One row with what another one has, its bytes above all, but for `values`."""
        self._copies.setdefault(place.part, []).append((place.item_id, values))

    @property
    def added(self) -> list[str]:
        """Ids of all rows that were added, in their order."""
        return [*self._written, *(values["item_id"] for values in self._waiting)]

    def stored(self, digests: Iterable[str]) -> Iterator[tuple[str, bytes]]:
        """Those images with some digests that were added, each with its digest."""
        wanted = set(digests)
        for values in self._waiting:
            if values["stored_digest"] in wanted:
                yield values["stored_digest"], values["image"]["bytes"]
        among = ("stored_digest", pa.array(sorted(wanted), pa.string()))
        for part in self.parts:
            for batch in self._corpus.read(EMPTY, part, ["stored_digest", "image"], among=among):
                for row in batch.to_pylist():
                    yield row["stored_digest"], row["image"]["bytes"]

    def revise(
        self, item_ids: pa.Array, splits: np.ndarray, changes: Mapping[str, Values], unwanted: Collection[str]
    ) -> dict[str, list[str]]:
        """Give rows that were added the splits of tonight's items and what is changed of some.

        Those that are no items, or `unwanted`, are taken back. Returns rows that are dead now, by part.
        """
        added = pa.array(self.added, pa.string())
        items = pc.fill_null(pc.index_in(added, value_set=item_ids), -1).to_numpy(zero_copy_only=False)
        if len(unwanted):
            items = np.where(_is_in(added, unwanted), -1, items)
        given = [*self._splits, *(values["split"] for values in self._waiting)]
        right = np.append(splits, np.int8(-1))[items]
        touched = np.array([SPLITS.index(each) for each in given], np.int8) != right
        if changes:
            touched |= _is_in(added, changes)
        parts = np.repeat(np.arange(len(self.parts)), np.array([part.rows for part in self.parts], np.int64))
        dead: dict[str, list[str]] = {}
        taken_back: set[int] = set()
        for place in np.flatnonzero(touched).tolist():
            item_id, is_item = added[place].as_py(), items[place] >= 0
            values = {"split": SPLITS[right[place]], **changes.get(item_id, {})} if is_item else {}
            waiting = place - len(self._written)
            if waiting < 0:
                part = self.parts[parts[place]].digest
                dead.setdefault(part, []).append(item_id)
                if is_item:
                    self.copy(Place(part, item_id), values)
            elif is_item:
                self._waiting[waiting].update(values)
            else:
                taken_back.add(waiting)
        self._waiting = [values for place, values in enumerate(self._waiting) if place not in taken_back]
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
                for row in part_rows(self._corpus, snapshot, part, pa.array(changes, pa.string()), self._schema.names):
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
            self._written += [values["item_id"] for values in self._waiting]
            self._splits += [values["split"] for values in self._waiting]
            self._waiting = []


def _is_in(item_ids: pa.Array, some: Iterable[str]) -> np.ndarray:
    found = pc.is_in(item_ids, value_set=pa.array(some, pa.string()))
    return np.asarray(found.to_numpy(zero_copy_only=False))
