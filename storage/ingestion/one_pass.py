"""One pass over all sources: rows are settled, and what differs from the corpus is written."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from pairloom.storage.corpus import Corpus, Snapshot
from pairloom.storage.digest import digest
from pairloom.storage.images.config import IngestConfig
from pairloom.storage.images.location import ImageAt
from pairloom.storage.images.stored_image import DecodedImage
from pairloom.storage.ingestion.image_files import ImageFiles
from pairloom.storage.ingestion.living import Living
from pairloom.storage.ingestion.part_writer import PartWriter, Values
from pairloom.storage.ingestion.quarantine import write_rejections
from pairloom.storage.ingestion.removals import Gone, judge_removals
from pairloom.storage.ingestion.settling import Item, Rejection, Settling, content_digest, plain, same_content
from pairloom.storage.ingestion.splits import Fractions, Member, assign_splits
from pairloom.storage.reasons import Reason
from pairloom.storage.schema import ColumnType
from pairloom.storage.sources.config import SourceConfig
from pairloom.storage.sources.source_row import RejectedRow, SourceRow

Progress = Callable[[int], None]
"""Called with the number of rows seen so far."""


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
        files: ImageFiles,
    ) -> None:
        self.warnings: tuple[str, ...] = ()
        """Which sources can't be read, and why removals are held, once they are judged."""
        self.unreadable: dict[str, str] = {}
        """What is wrong with sources as a whole, by their labels."""
        self._corpus, self._base, self._keep, self._config, self._files = corpus, base, dict(keep), config, files
        self._living = Living(corpus, base)
        self._settling = Settling(config.limits)
        self._writer = PartWriter(corpus, base, keep, config.part_rows)
        self._fractions = Fractions(config.val_fraction, config.test_fraction)
        self._counts: Counter[str] = Counter()
        self._contents: dict[str, str] = {}
        """Content digest by id, of all items of tonight."""
        self._members: list[Member] = []
        """What decides their splits, in the same order."""
        self._splits: dict[str, str] = {}
        self._copied: list[Item] = []
        """New content whose image is stored already."""
        self._late: list[Item] = []
        """New content whose image is known, but stored nowhere: of a duplicate whose twin is gone, say."""
        self._new: list[tuple[str, str]] = []
        self._retained: set[str] = set()
        self._rejections: list[Rejection] = []

    def read(self, rows: Iterator[SourceRow | RejectedRow], progress: Progress | None) -> None:
        """Settle the rows of one source."""
        for row, image, decoded in self._files.images(rows):
            self._counts["seen"] += 1
            if progress and self._counts["seen"] % 100 == 0:
                progress(self._counts["seen"])
            settled = self._settling.take(row, image)
            if isinstance(settled, Item):
                self._take(settled, decoded)
            else:
                self._counts[settled.outcome] += 1
                # What `where` leaves out is a choice made again every night from the row alone: counted, not kept.
                if settled.reason is not Reason.WHERE:
                    self._rejections.append(settled)

    def hold(self, source: SourceConfig, problem: str) -> None:
        """Have a source that can't be read keep its items, and its fault written down as a row."""
        self.unreadable[source.label] = problem
        self._counts.update(seen=1, quarantined=1)
        message = problem.encode(errors="backslashreplace").decode()
        fingerprint = digest([source.label, "source-unreadable"])
        row = RejectedRow(source.label, 0, fingerprint, None, None, Reason.SOURCE_UNREADABLE, message)
        self._rejections.append(Rejection(row, None, row.reason, row.message))

    def decode_late(self) -> list[ImageAt]:
        """Write the items whose image is stored nowhere; returns the files that are not what was known of them."""
        mistaken = []
        decoded = self._files.decoded([item.row for item in self._late])
        for item, (row, found, image) in zip(self._late, decoded, strict=True):
            if image is not None and found == item.picture:
                self._add(item, image)
            else:
                mistaken.append(row.image)
        return mistaken

    def retire(self, sources: Sequence[SourceConfig]) -> None:
        """Let the items go that no row is any more, but for those that stay by their source's rules."""
        gone = [
            Gone(
                item_id=row["item_id"],
                source=row["source"],
                path=path,
                served_elsewhere=self._settling.holds_content(same_content(row["pixel_hash"], row["texts"])),
            )
            for row, path in self._living.rows_and_paths(
                [item_id for item_id in self._living if item_id not in self._contents],
                ["item_id", "source", "pixel_hash", "texts"],
            )
        ]
        kept = [each for each in gone if each.source in self.unreadable and not each.served_elsewhere]
        gone = [each for each in gone if each.source not in self.unreadable]
        judged = judge_removals(gone, self._living.sources, self._new, sources, self._config.max_removed)
        self._counts["removals_held"] = judged.held + len(kept)
        items = Counter(each.source for each in kept)
        unreadable = (f"{said}; its {items[name]:,} items stay" for name, said in self.unreadable.items())
        self.warnings = (*unreadable, *judged.warnings)
        self._retain(judged.stay | {each.item_id for each in kept})

    def commit(self, number: int) -> Snapshot:
        """Publish what differs from the base under `number`; without a difference, the base stays."""
        self._splits = dict(zip(self._contents, assign_splits(self._members, self._fractions), strict=True))
        for item in self._copied:
            holder = self._living.holder(item.picture.stored_digest)
            assert holder is not None, "only items whose bytes are stored are copied"
            self._writer.copy(holder, _values(item, self._splits[item.item_id]))
        dead = self._supersede()
        self._writer.finish()
        base = self._base
        quarantine = write_rejections(self._corpus, base, self._rejections)
        same = not (self._writer.parts or dead) and quarantine == base.quarantine
        if same and (base.keep == self._keep or base.rows == 0):
            return base
        tombstones = {
            part: (*base.tombstones.get(part, ()), *sorted(dead.get(part, ())))
            for part in sorted({*base.tombstones, *dead})
        }
        parts = (*base.parts, *self._writer.parts)
        snapshot = Snapshot(
            number=number, files={}, parts=parts, quarantine=quarantine, tombstones=tombstones, keep=self._keep
        )
        return self._corpus.commit(snapshot, base.files)

    def count(self, since: Snapshot) -> RowCounts:
        """What became of the rows, and what left, since a snapshot."""
        before = self._living if since.number == self._base.number else Living(self._corpus, since)
        for item_id, content in self._contents.items():
            if item_id not in self._retained:
                now = (content, self._splits[item_id])
                known = item_id in before
                same = known and now == (before.content(item_id), before.split(item_id))
                self._counts["unchanged" if same else "updated" if known else "new"] += 1
        self._counts["removed"] = sum(item_id not in self._contents for item_id in before)
        return RowCounts(**self._counts)

    def _take(self, item: Item, decoded: DecodedImage | None) -> None:
        self._contents[item.item_id] = item.content
        self._members.append(_member(item))
        if item.item_id not in self._living:
            self._new.append((item.row.source, item.row.image_path))
        if self._living.content(item.item_id) == item.content:
            return
        if decoded is not None:
            self._add(item, decoded)
        else:
            stored = self._living.holder(item.picture.stored_digest)
            (self._copied if stored else self._late).append(item)

    def _add(self, item: Item, image: DecodedImage) -> None:
        # By the hash alone, until all items are known.
        split = item.row.split or self._fractions.split(_member(item).key)
        self._writer.add(_values(item, split), image)

    def _retain(self, item_ids: frozenset[str]) -> None:
        """Keep items without a row, as they are; in tonight's columns where these differ."""
        columns = [*_STORED, *self._keep]
        for row, path in self._living.rows_and_paths(item_ids, columns, keep=self._keep):
            # Older parts don't say whether the source named the split: there it stays.
            item_id, named = row["item_id"], None if row["split_named"] is False else row["split"]
            content = self._living.content(item_id)
            if self._base.keep != self._keep:
                metadata = {name: row[name] for name in self._keep}
                said = digest([row["pixel_hash"], row["texts"], row["group"], named, plain(metadata)])
                content = content_digest(said, row["stored_digest"], (row["width"], row["height"]), path, row["source"])
            assert content is not None, "an item that stays is stored"
            self._retained.add(item_id)
            self._contents[item_id] = content
            self._members.append(Member(row["group"] or row["pixel_hash"], named))

    def _supersede(self) -> dict[str, list[str]]:
        """Rewrite stored items that are otherwise tonight; returns the items that are dead now, by part."""
        dead: dict[str, list[str]] = {}
        for item_id in self._living:
            place, content = self._living.place(item_id), self._contents.get(item_id)
            changes: Values = {}
            if item_id in self._retained and content != self._living.content(item_id):
                changes["content_digest"] = content
            if content is not None and self._splits[item_id] != self._living.split(item_id):
                changes["split"] = self._splits[item_id]
            rewritten = item_id in self._retained or content == self._living.content(item_id)
            if changes and rewritten:
                self._writer.copy(place, changes)
            if changes or content != self._living.content(item_id):
                dead.setdefault(place.part, []).append(item_id)
        for part, item_ids in self._writer.resplit(self._splits).items():
            dead.setdefault(part, []).extend(item_ids)
        return dead


_STORED = [
    "item_id",
    "pixel_hash",
    "texts",
    "group",
    "split",
    "split_named",
    "stored_digest",
    "width",
    "height",
    "source",
]


def _member(item: Item) -> Member:
    return Member(item.row.group or item.picture.pixel_hash, item.row.split)


def _values(item: Item, split: str) -> Values:
    row, picture = item.row, item.picture
    return {
        **row.metadata,
        "item_id": item.item_id,
        "path": row.image_path,
        "texts": list(row.texts),
        "group": row.group,
        "split": split,
        "split_named": row.split is not None,
        "content_digest": item.content,
        "stored_digest": picture.stored_digest,
        "pixel_hash": picture.pixel_hash,
        "perceptual_hash": picture.perceptual_hash,
        "width": picture.width,
        "height": picture.height,
        "source": row.source,
    }
