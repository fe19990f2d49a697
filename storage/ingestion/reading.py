"""Tonight's rows, source by source: which ones are known, what the others say, and what each became."""

# N = rows

from collections import Counter
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import pyarrow as pa

from pairloom.storage.digest import digest
from pairloom.storage.escaping import utf8
from pairloom.storage.images.config import IngestConfig
from pairloom.storage.ingestion.addresses import Addresses
from pairloom.storage.ingestion.caps import caps
from pairloom.storage.ingestion.chunk import Became, Chunk
from pairloom.storage.ingestion.images import UNKNOWN, Images
from pairloom.storage.ingestion.known_rows import NO_FRESH, KnownSource
from pairloom.storage.ingestion.listing import Listed, Listing
from pairloom.storage.ingestion.row_facts import FreshRow, facts, fresh_row
from pairloom.storage.ingestion.settling import Settling
from pairloom.storage.reasons import Reason
from pairloom.storage.sources.columns import ColumnsConfig
from pairloom.storage.sources.config import SourceConfig
from pairloom.storage.sources.raw_row import malformed
from pairloom.storage.sources.rows import Source
from pairloom.storage.sources.source_row import RejectedRow, SourceRow, UnreadableSourceError

Progress = Callable[[int], None]
"""Called with the number of rows seen so far."""

Take = Callable[[Source, Listed, slice, Chunk, Sequence[FreshRow], int], None]
"""Called with each chunk once it is settled: its source, the rows that it is a part of, that part, the chunk, its fresh
rows with what was decoded just now, and how many items came before it."""

_FRESH_AT_ONCE = 2_000
"""Fresh rows that are held with their images' bytes."""


class Reading:
    """The rows of all sources, one after the other."""

    def __init__(self, images: Images, addresses: Addresses, config: IngestConfig, take: Take) -> None:
        self.bad_cells: Counter[str] = Counter()
        """Cells of rows read tonight that are null because they are not of their kept column's type."""
        self.unreadable: dict[str, str] = {}
        """What is wrong with sources as a whole, by their labels."""
        self.idle = False
        """Whether all rows so far are those of last night in their order, so that nothing was settled yet."""
        self.chunks: list[Chunk] = []
        self.sources: list[KnownSource] = []
        self.seen = 0
        self.ranked = 0
        """Rows that settling made items."""
        self.settling = Settling()
        self._caps = caps(config)
        self._images, self._addresses, self._config, self._take = images, addresses, config, take
        self._known = images.known
        self._listing = Listing(images)

    def read(
        self, sources: Sequence[SourceConfig], columns: ColumnsConfig, progress: Progress | None, *, idle: bool
    ) -> None:
        """Settle all rows; where `idle`, those that are as they were last night only once others aren't.

        Raises ValueError where none of the sources can be read.
        """
        self.idle = idle
        for each in sources:
            start = self.seen
            try:
                source = Source(each, columns, self._config.texts, self._config.on_bad_cell, self.bad_cells)
                self._read(source, progress)
            except UnreadableSourceError as error:
                self._hold(each, str(error), start)
        if self.unreadable and len(self.unreadable) == len(sources):
            raise ValueError("\n".join(self.unreadable.values()))

    def wake(self) -> None:
        """Settle what is as it was last night: all that came so far."""
        if not self.idle:
            return
        self.idle = False
        for chunk in self.chunks:
            chunk.recall(self._known, self.settling, self._caps)
            self.ranked += int((chunk.became == Became.ITEM).sum())

    def _read(self, source: Source, progress: Progress | None) -> None:
        start, label = self.seen, source.config.label
        # Before any row is read: what changes in between is seen the next night.
        version = source.version
        if (rows := self._untouched(source.identity, version)) is not None:
            self.chunks.append(Chunk(label, self._known.numbers("number")[rows], rows, NO_FRESH))
            self.seen += len(rows)
        else:
            for listed in self._listing.rows(source):
                self._settle_listed(source, listed, progress)
        if progress:
            progress(self.seen)
        rows_read = self.seen - start
        self.sources.append(KnownSource(identity=source.identity, version=version, start=start, rows=rows_read))

    def _hold(self, config: SourceConfig, problem: str, start: int) -> None:
        """Have a source that can't be read, or not on, keep its items, and its fault written down as a row."""
        self.unreadable[config.label] = problem
        raw = malformed(0, "", utf8(problem))
        row = RejectedRow(
            source=config.label,
            number=0,
            fingerprint=digest([config.label, Reason.SOURCE_UNREADABLE]),
            item_id=None,
            image_path=None,
            reason=Reason.SOURCE_UNREADABLE,
            message=raw.found,
        )
        made = facts([fresh_row(raw, UNKNOWN, row, None, None)], self._config)
        chunk = Chunk(config.label, np.array([0]), np.array([-1]), made)
        self.wake()
        chunk.settle(self._known, self.settling, self._config.limits, self._caps)
        self.chunks.append(chunk)
        self.seen += 1
        unread = digest([config.label, problem])
        self.sources.append(KnownSource(identity=unread, version=None, start=start, rows=self.seen - start))

    def _untouched(self, identity: str, version: str | None) -> np.ndarray | None:
        """The known rows of a source of which its kind can tell that nothing has changed."""
        last, place = self._known.last, len(self.sources)
        if not self.idle or last is None or version is None or place >= len(last.sources):
            return None
        before = last.sources[place]
        if (before.identity, before.version, before.start) != (identity, version, self.seen):
            return None
        return self._listing.skip(before.rows)

    def _settle_listed(self, source: Source, listed: Listed, progress: Progress | None) -> None:
        fresh = self._fresh(source, listed, progress)
        # Cut where many fresh rows have come together.
        count_N = np.cumsum(listed.known < 0)
        cuts = np.searchsorted(count_N, np.arange(_FRESH_AT_ONCE, count_N[-1] + 1, _FRESH_AT_ONCE)) + 1
        for start, end in zip([0, *cuts], [*cuts, len(count_N)], strict=True):
            if start < end:
                self._settle(source, listed, slice(start, end), fresh)
                self.seen += int(end - start)

    def _fresh(self, source: Source, listed: Listed, progress: Progress | None) -> Iterator[FreshRow]:
        """The rows that must be read, with their images, as these are decoded."""
        batch, places = listed.batch, np.flatnonzero(listed.known < 0).tolist()
        rows = list(self._addresses.listed(source.read(batch, place) for place in places))
        images = self._images.of([row for row in rows if isinstance(row, SourceRow)])
        start = self.seen
        for place, row in zip(places, rows, strict=True):
            found, content = next(images) if isinstance(row, SourceRow) else (None, None)
            if progress and place % 100 == 0:
                progress(start + place)
            yield fresh_row(batch.rows[place], listed.keys[place], row, found, content)

    def _settle(self, source: Source, listed: Listed, part: slice, fresh_rows: Iterator[FreshRow]) -> None:
        known, numbers = listed.known[part], listed.numbers[part]
        fresh = [next(fresh_rows) for _ in range(int((known < 0).sum()))]
        made = facts(fresh, self._config) if fresh else NO_FRESH
        if self.idle and self._is_as_last_night(known, numbers, made):
            self.chunks.append(Chunk(source.config.label, numbers, self.seen + np.arange(len(known)), NO_FRESH))
            return
        self.wake()
        chunk = Chunk(source.config.label, numbers, known, made)
        chunk.settle(self._known, self.settling, self._config.limits, self._caps)
        self.chunks.append(chunk)
        self._take(source, listed, part, chunk, fresh, self.ranked)
        self.ranked += int((chunk.became == Became.ITEM).sum())

    def _is_as_last_night(self, known: np.ndarray, numbers: np.ndarray, made: pa.RecordBatch) -> bool:
        expected = self.seen + np.arange(len(known))
        if expected[-1] >= self._known.listed or not np.array_equal(self._known.numbers("number")[expected], numbers):
            return False
        read = known < 0
        if not np.array_equal(known[~read], expected[~read]):
            return False
        if not read.any():
            return True
        places = pa.array(expected[read])
        return all(self._known.column(name).take(places).equals(made[name]) for name in made.schema.names)
