"""One pass over all sources: rows are settled, and what differs from the corpus is written."""

# N = rows, I = tonight's items, L = living items

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pairloom.storage.corpus import SPLITS, Corpus, Snapshot
from pairloom.storage.digest import digest
from pairloom.storage.images.config import IngestConfig
from pairloom.storage.images.location import ImageAt
from pairloom.storage.ingestion.addresses import Addresses
from pairloom.storage.ingestion.arrivals import Arrivals
from pairloom.storage.ingestion.chunk import of_items, save_rows
from pairloom.storage.ingestion.images import Images
from pairloom.storage.ingestion.items import Items, Retained, equal_at, places_among, retained_items
from pairloom.storage.ingestion.known_rows import LastNight, as_numbers
from pairloom.storage.ingestion.living import Living, Place
from pairloom.storage.ingestion.near_items import Staying
from pairloom.storage.ingestion.part_writer import Values
from pairloom.storage.ingestion.quarantine import write_rejections
from pairloom.storage.ingestion.reading import Progress, Reading
from pairloom.storage.ingestion.rejections import rejections
from pairloom.storage.ingestion.removals import Gone, judge_removals
from pairloom.storage.ingestion.row_facts import id_digest
from pairloom.storage.ingestion.settling import same_content
from pairloom.storage.ingestion.splits import assign_splits
from pairloom.storage.reasons import Reason
from pairloom.storage.schema import ColumnType
from pairloom.storage.sources.columns import ColumnsConfig
from pairloom.storage.sources.config import SourceConfig


@dataclass(frozen=True)
class RowCounts:
    """What became of the rows seen: each is new, updated, unchanged, duplicate, filtered or quarantined."""

    seen: int = 0
    new: int = 0
    updated: int = 0
    unchanged: int = 0
    duplicate: int = 0
    filtered: int = 0
    quarantined: int = 0
    removed: int = 0
    """Items that left the corpus."""
    removals_held: int = 0
    """Items that stay although no row is them any more, because too many would leave at once."""


class OnePass:
    """What one pass over the sources finds."""

    def __init__(
        self,
        corpus: Corpus,
        base: Snapshot,
        keep: Mapping[str, ColumnType],
        config: IngestConfig,
        images: Images,
        addresses: Addresses,
    ) -> None:
        self.warnings: tuple[str, ...] = ()
        """Which sources can't be read, and why removals are held, once they are judged."""
        self._corpus, self._base, self._keep, self._config = corpus, base, dict(keep), config
        self._known = images.known
        self._arrivals = Arrivals(corpus, base, keep, config, images)
        self._reading = Reading(images, addresses, config, self._arrivals.take)
        self._compared = self._arrivals.near.memory if self._arrivals.near else ""
        self._rules = ""
        self._same = False
        """Whether all rows are those of last night in their order."""
        self._counts: Counter[str] = Counter()

    @property
    def bad_cells(self) -> Counter[str]:
        """Cells of rows read tonight that are null because they are not of their kept column's type."""
        return self._reading.bad_cells

    def read(self, sources: Sequence[SourceConfig], columns: ColumnsConfig, progress: Progress | None) -> None:
        """Settle the rows of all sources, one after the other. Raises ValueError where none of them can be read."""
        last = self._known.last
        rules = [(source.label, source.mode, source.max_removed) for source in sources]
        # How many processes decode decides nothing.
        self._rules = digest([rules, self._config.model_dump(mode="json", exclude={"workers"}), self._keep])
        # Near-duplicates of last night are stored nowhere: without what is known of them they must be read again.
        known = last is not None and (last.rules, last.compared) == (self._rules, self._compared)
        self._reading.read(sources, columns, progress, idle=self._arrivals.based and known)

    def unchanged(self) -> RowCounts | None:
        """What became of the rows where nothing at all differs from last night; None where something may differ."""
        last = self._known.last
        self._same = self._reading.idle and last is not None and tuple(self._reading.sources) == last.sources
        return RowCounts(**last.counts) if self._same and last and last.counts else None

    def decode_late(self) -> list[ImageAt]:
        """Write the items whose image is stored nowhere; returns the files that are not what was known of them."""
        self._reading.wake()
        self._arrivals.decode_late(self._reading.chunks, self._reading.ranked)
        return self._arrivals.mistaken

    def retire(self, sources: Sequence[SourceConfig]) -> None:
        """Let the items go that no row is any more, but for those that stay by their source's rules."""
        item_ids, contents = self._of_items("item_id"), self._of_items("content_digest")
        living = self._arrivals.living
        living_L = places_among(living.item_ids, item_ids)
        gone = [
            Gone(
                item_id=row["item_id"],
                source=row["source"],
                path=path,
                served_elsewhere=self._reading.settling.holds(
                    id_digest(row["item_id"]), same_content(row["pixel_hash"], row["texts"])
                ),
            )
            for row, path in living.rows_and_paths(
                np.flatnonzero(living_L < 0), ["item_id", "source", "pixel_hash", "texts"]
            )
        ]
        kept = [each for each in gone if each.source in self._reading.unreadable and not each.served_elsewhere]
        gone = [each for each in gone if each.source not in self._reading.unreadable]
        judged = judge_removals(gone, living.sources, self._arrivals.first_seen, sources, self._config.max_removed)
        self._counts["removals_held"] = judged.held + len(kept)
        held = Counter(each.source for each in kept)
        unreadable = (f"{said}; its {held[name]:,} items stay" for name, said in self._reading.unreadable.items())
        self.warnings = (*unreadable, *judged.warnings)
        staying = sorted(judged.stay | {each.item_id for each in kept})
        contents = self._revised(item_ids, contents)
        positions_I, named_I = as_numbers(self._of_items("group")), as_numbers(self._of_items("split"))
        stay = np.array(sorted(living.rows(staying).values()), np.int64)
        retained = list(retained_items(living, stay, self._keep))
        living_L[stay] = len(item_ids) + np.arange(len(stay))
        positions = np.concatenate([positions_I, np.array([each.position for each in retained], np.uint64)])
        if self._arrivals.near:
            positions = self._arrivals.near.joined(positions, _staying(retained), self._arrivals.stored)
        self._items = Items(
            item_ids=_with(item_ids, living.item_ids.take(pa.array(stay))),
            contents=_with(contents, pa.array([each.content for each in retained], pa.string())),
            rows=len(item_ids),
            splits_I=assign_splits(
                positions,
                np.concatenate([named_I, np.array([each.named for each in retained], np.int8)]),
                self._arrivals.fractions,
            ),
            living_L=living_L,
        )

    def commit(self, number: int) -> Snapshot:
        """Publish what differs from the base under `number`; without a difference, the base stays."""
        self._arrivals.copy(self._items)
        dead = self._supersede()
        self._arrivals.writer.finish()
        base = self._base
        rejected = rejections(self._known, self._reading.chunks, self._config)
        self._counts.update(Counter(rejected["outcome"].to_pylist()))
        # What `where` leaves out is a choice made again every night from the row alone: counted, not kept.
        quarantine = write_rejections(
            self._corpus, base, rejected.filter(pc.not_equal(rejected["reason"], Reason.WHERE.value))
        )
        # Of what was written as it came, all may have been taken back.
        new = [part for part in self._arrivals.writer.parts if len(dead.get(part.digest, ())) < part.rows]
        lost = any(part.digest in dead for part in base.parts)
        same = not (new or lost) and quarantine == base.quarantine
        if same and ((base.keep, base.trim) == (self._keep, self._config.trim) or base.rows == 0):
            return base
        tombstones = {
            part: (*base.tombstones.get(part, ()), *sorted(dead.get(part, ())))
            for part in sorted({*base.tombstones, *dead})
        }
        parts = (*base.parts, *new)
        snapshot = Snapshot(
            number=number,
            files={},
            parts=parts,
            quarantine=quarantine,
            tombstones=tombstones,
            keep=self._keep,
            trim=self._config.trim,
        )
        return self._corpus.commit(snapshot, base.files)

    def save(self, snapshot: Snapshot) -> None:
        """Write down tonight's rows for the next night, which began with `snapshot`."""
        if near := self._arrivals.near:
            near.save()
            self._compared = near.memory
        counts = {"seen": self._reading.seen, "unchanged": self._items.rows}
        counts |= {name: self._counts[name] for name in ("duplicate", "filtered", "quarantined")}
        last = LastNight(
            base=snapshot.identity,
            rules=self._rules,
            sources=tuple(self._reading.sources),
            compared=self._compared,
            counts=None if self.warnings else counts,
        )
        if self._same and last == self._known.last:
            return
        gone = np.zeros(0, np.int64)
        if self.warnings:
            # Pictures that are not mounted, say: nothing of them need be decoded again.
            left = np.ones(self._known.rows, bool)
            for chunk in self._reading.chunks:
                left[chunk.known[chunk.known >= 0]] = False
            gone = np.flatnonzero(left & (self._known.numbers("image_at") != 0).any(axis=1))
        save_rows(self._known, self._reading.chunks, gone, last)

    def count(self, since: Snapshot) -> RowCounts:
        """What became of the rows, and what left, since a snapshot."""
        items, before = self._items, self._arrivals.living
        place_B = items.living_L
        if since.number != self._base.number:
            before = Living(self._corpus, since)
            place_B = places_among(before.item_ids, items.item_ids)
        known_B = place_B >= 0
        row_B = known_B & (place_B < items.rows)
        same_B = (
            row_B & equal_at(before.contents, items.contents, place_B) & (before.splits == items.splits_at(place_B))
        )
        unchanged, updated = int(same_B.sum()), int((row_B & ~same_B).sum())
        counts = {"new": items.rows - unchanged - updated, "updated": updated, "unchanged": unchanged}
        return RowCounts(seen=self._reading.seen, removed=int((~known_B).sum()), **counts, **self._counts)

    def _of_items(self, name: str) -> pa.Array:
        """A column of all rows that are items."""
        return of_items(self._known, self._reading.chunks, name)

    def _revised(self, item_ids: pa.Array, contents: pa.Array) -> pa.Array:
        """The digests of the items' contents, with what they get from their near-duplicates."""
        if not (changes := self._arrivals.revised):
            return contents
        changed = pc.is_in(item_ids, value_set=pa.array(changes, pa.string()))
        new = [changes[each]["content_digest"] for each in item_ids.filter(changed).to_pylist()]
        return pc.replace_with_mask(contents, changed, pa.array(new, pa.string()))

    def _supersede(self) -> dict[str, list[str]]:
        """Rewrite stored items that are otherwise tonight; returns the items that are dead now, by part."""
        items, living = self._items, self._arrivals.living
        place_L = items.living_L
        gone_L = place_L < 0
        same_L = equal_at(living.contents, items.contents, place_L)
        split_L = ~gone_L & (items.splits_at(place_L) != living.splits)
        retained_L = place_L >= items.rows
        dead: dict[str, list[str]] = {}
        for row in np.flatnonzero(gone_L | ~same_L | split_L).tolist():
            place = living.place(row)
            dead.setdefault(place.part, []).append(place.item_id)
            if same_L[row] or retained_L[row]:
                changes: Values = {"split": SPLITS[items.splits_I[place_L[row]]]}
                if retained_L[row]:
                    changes["content_digest"] = items.contents[place_L[row]].as_py()
                self._arrivals.writer.copy(place, changes)
        for place, changes in self._with_other_texts(np.flatnonzero(~gone_L & ~same_L & ~retained_L)):
            self._arrivals.writer.copy(place, changes)
        revised = self._arrivals.writer.revise(
            items.item_ids, items.splits_I, self._arrivals.revised, self._arrivals.as_revised
        )
        for part, item_ids in revised.items():
            dead.setdefault(part, []).extend(item_ids)
        return dead

    def _with_other_texts(self, rows: np.ndarray) -> Iterator[tuple[Place, Values]]:
        """Of stored items that are otherwise tonight, those that nothing was written for: their own rows are as they
        were, but they get other texts of near-duplicates than before, or none."""
        if not len(rows):
            return
        written = self._arrivals.written
        items = self._items
        wanted_I = np.zeros(items.rows, bool)
        wanted_I[items.living_L[rows]] = True
        texts = of_items(self._known, self._reading.chunks, "texts", wanted_I).to_pylist()
        own = dict(zip(np.flatnonzero(wanted_I).tolist(), texts, strict=True))
        for row in rows.tolist():
            at, place = int(items.living_L[row]), self._arrivals.living.place(row)
            if place.item_id not in written:
                changes: Values = {"texts": own[at], "content_digest": items.contents[at].as_py()}
                changes |= self._arrivals.revised.get(place.item_id, {})
                yield place, {"split": SPLITS[items.splits_I[at]], **changes}


def _with(values: pa.Array, more: pa.Array) -> pa.Array:
    """Both; of millions no copy where there are no more."""
    return pa.concat_arrays([values, more]) if len(more) else values


def _staying(retained: Sequence[Retained]) -> Staying:
    """Those of items that stay of which it is known what they look like."""
    seen = [each for each in retained if each.perceptual_hash]
    return Staying(
        [each.perceptual_hash or "" for each in seen],
        [each.stored_digest for each in seen],
        np.array([each.position for each in seen], np.uint64),
    )
