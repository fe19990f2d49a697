"""What comes into the corpus tonight: content that it does not hold as it is, and where its bytes come from."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from pairloom.storage.corpus import SPLITS, Corpus, Snapshot
from pairloom.storage.images.config import IngestConfig
from pairloom.storage.images.location import ImageAt
from pairloom.storage.images.stored_image import DecodedImage
from pairloom.storage.ingestion.chunk import Became, Chunk
from pairloom.storage.ingestion.images import Images, image_at, known_image
from pairloom.storage.ingestion.items import Items
from pairloom.storage.ingestion.listing import Listed
from pairloom.storage.ingestion.living import Living
from pairloom.storage.ingestion.near_items import NearItems
from pairloom.storage.ingestion.part_writer import PartWriter, Values
from pairloom.storage.ingestion.row_facts import FreshRow, fresh_row, item_values
from pairloom.storage.ingestion.splits import Fractions, group_position
from pairloom.storage.schema import ColumnType
from pairloom.storage.sources.rows import Source
from pairloom.storage.sources.source_row import SourceRow


@dataclass(frozen=True, slots=True)
class _Arrival:
    row: FreshRow
    rank: int
    """Its place among what settling made items tonight, near-duplicates included."""

    @property
    def item_id(self) -> str:
        assert self.row.candidate is not None, "an item has a picture"
        return self.row.candidate.item_id

    @property
    def said(self) -> SourceRow:
        assert isinstance(self.row.row, SourceRow), "an item has a row that could be read"
        return self.row.row

    @property
    def stored_digest(self) -> str:
        return self.row.picture.stored_digest


class Arrivals:
    """The rows that are items which the base does not hold as they are: their bytes go to the parts of tonight."""

    def __init__(
        self, corpus: Corpus, base: Snapshot, keep: Mapping[str, ColumnType], config: IngestConfig, images: Images
    ) -> None:
        self.writer = PartWriter(corpus, base, keep, config.part_rows)
        self.fractions = Fractions(config.val_fraction, config.test_fraction)
        self.near = NearItems(images.known.path.parent, config) if config.near_duplicates != "keep" else None
        self.based = images.known.last is not None and images.known.last.base == base.identity
        """Whether what was an item last night is in the base."""
        self.first_seen: list[tuple[str, str]] = []
        """Source and image path of rows that are items for the first time."""
        self.mistaken: list[ImageAt] = []
        """Files that are not what was known of them."""
        self._corpus, self._base, self._images, self._known = corpus, base, images, images.known
        self._unstored: list[_Arrival] = []
        """Those that came without bytes: their image is known."""
        self._copied: list[_Arrival] = []
        """Those of them whose bytes the corpus has."""

    @cached_property
    def living(self) -> Living:
        """The items of the base."""
        return Living(self._corpus, self._base)

    @property
    def revised(self) -> Mapping[str, Values]:
        """What items get from their near-duplicates, by their ids."""
        return self.near.revised if self.near else {}

    @cached_property
    def as_revised(self) -> set[str]:
        """Ids of those of them that the corpus holds so already."""
        living, revised = self.living, self.revised
        rows = living.rows(list(revised)).items()
        return {each for each, row in rows if living.contents[row].as_py() == revised[each]["content_digest"]}

    @property
    def written(self) -> set[str]:
        """Ids of all for which something is written."""
        return {*self.writer.added, *(each.item_id for each in self._copied)}

    def take(
        self, source: Source, listed: Listed, part: slice, chunk: Chunk, fresh_rows: Sequence[FreshRow], first_rank: int
    ) -> None:
        """Write the items of a chunk that the base does not hold as they are."""
        items = chunk.became == Became.ITEM
        ranks = first_rank + np.cumsum(items) - 1
        if self.based:
            was_item = np.zeros(len(items), bool)
            was_item[chunk.known >= 0] = self._known.numbers("became")[chunk.known[chunk.known >= 0]] == Became.ITEM
            items &= ~was_item
        fresh = dict(zip(np.flatnonzero(chunk.known < 0).tolist(), fresh_rows, strict=True))
        arrived: list[_Arrival] = []
        for place in np.flatnonzero(items).tolist():
            row = fresh.get(place) or self._read_again(source, listed, part.start + place)
            if row is not None:
                arrived.append(_Arrival(row, int(ranks[place])))
        living = self.living.rows([each.item_id for each in arrived])
        for each in arrived:
            at = living.get(each.item_id)
            if at is None and len(self.living):
                self.first_seen.append((each.row.row.source, each.row.row.image_path or ""))
            content = each.row.candidate.content if each.row.candidate else None
            if at is not None and self.living.contents[at].as_py() == content:
                continue
            if each.row.content is not None:
                self._add(each, each.row.content)
            else:
                self._unstored.append(each)

    def decode_late(self, chunks: Sequence[Chunk], ranked: int) -> None:
        """Write those whose image is stored nowhere, once all rows are settled: `ranked` of them are items."""
        if self.near and not self.mistaken:
            self.near.judge(self._known, chunks, self.stored)
        if self.mistaken:
            return
        unstored = self._still_wanted(ranked)
        self._holders = self.living.holders([each.stored_digest for each in unstored])
        late: list[_Arrival] = []
        for each in unstored:
            (self._copied if each.stored_digest in self._holders else late).append(each)
        for each, content in self._decoded(late):
            self._add(each, content)

    def copy(self, items: Items) -> None:
        """Write those whose bytes the corpus has, in the splits of tonight's items."""
        for each in self._copied:
            place = int(self.near.place_J[each.rank]) if self.near else each.rank
            values = item_values(each.row, SPLITS[items.splits_I[place]]) | self.revised.get(each.item_id, {})
            self.writer.copy(self._holders[each.stored_digest], values)

    def stored(self, digests: set[str]) -> Iterator[tuple[str, bytes]]:
        """What is stored of pictures, or is to be, by digests; decodes those of which nothing is."""
        left = set(digests)
        for found in (self.writer.stored, self.living.stored):
            for each, content in found(frozenset(left)):
                if each in left:
                    left.remove(each)
                    yield each, content
        late = {each.stored_digest: each for each in self._unstored}
        written = set()
        for arrival, image in self._decoded([late[each] for each in sorted(left)]):
            self._add(arrival, image)
            written.add(arrival.rank)
            yield arrival.stored_digest, image.content
        self._unstored = [each for each in self._unstored if each.rank not in written]

    def _read_again(self, source: Source, listed: Listed, place: int) -> FreshRow | None:
        """A known row that was no item, or not in this base."""
        raw, known = listed.batch.rows[place], int(listed.known[place])
        row = source.read(listed.batch, place)
        if isinstance(row, SourceRow) and image_at(row.image) == self._known.column("image_at")[known].as_py():
            return fresh_row(raw, listed.keys[place], row, known_image(self._known, known), None)
        # Its image has changed since it was listed: rare, and settled in another pass.
        key, version = (self._known.column(name)[known].as_py() for name in ("image", "version"))
        self.mistaken.append(ImageAt(key, version, None, Path(key)))
        return None

    def _still_wanted(self, ranked: int) -> list[_Arrival]:
        """Those without bytes that are items after all, and not in the corpus as they are to be."""
        leaving_J = self.near.leaving_J if self.near else np.zeros(ranked, bool)
        return [each for each in self._unstored if not leaving_J[each.rank] and each.item_id not in self.as_revised]

    def _decoded(self, arrivals: Sequence[_Arrival]) -> Iterator[tuple[_Arrival, DecodedImage]]:
        """Some with what is to be stored of their images; the others' files are mistaken."""
        decoded = self._images.decoded([each.said for each in arrivals])
        for each, (found, content) in zip(arrivals, decoded, strict=True):
            if content is not None and found.image == each.row.picture:
                yield each, content
            else:
                self.mistaken.append(each.said.image)

    def _add(self, arrival: _Arrival, image: DecodedImage) -> None:
        # By the hash alone, until all items are known.
        row = arrival.said
        split = row.split or self.fractions.split(group_position(row.group or arrival.row.picture.pixel_hash))
        self.writer.add(item_values(arrival.row, split), image)
