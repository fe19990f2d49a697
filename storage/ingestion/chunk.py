"""Rows of tonight by the thousand: columns of known and of fresh rows, and what each row became."""

# N = rows of a chunk

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from functools import cached_property

import numpy as np
import pyarrow as pa

from pairloom.storage.images.limits import Limits
from pairloom.storage.ingestion.caps import Cap
from pairloom.storage.ingestion.known_rows import FRESH, KnownRows, LastNight, as_numbers, written
from pairloom.storage.ingestion.settling import Settling, misfits
from pairloom.storage.schema import KNOWN_ROWS

_ROWS_PER_GROUP = 100_000


class Became(IntEnum):
    """What a row became."""

    ITEM = 0
    REJECTED = 1
    """For what it says, or for its image."""
    MISFIT = 2
    """Its picture is decoded, but none under tonight's limits."""
    REPEATED = 3
    """An earlier row has its id or its content."""
    TEXT_REPEATED = 4
    """It would be an item, but for the cap of its first text."""
    DOMAIN_REPEATED = 5
    """The same of its image's domain."""
    NEAR_DUPLICATE = 6
    """It would be an item, but for an earlier one that it resembles."""


CAPPED = {"text_key": Became.TEXT_REPEATED, "domain_key": Became.DOMAIN_REPEATED}
"""What a row becomes that is above a cap, by the column of its keys."""
NO_CLAIM = (Became.REJECTED, Became.MISFIT, Became.REPEATED)
"""What does not take its id and content from later rows."""


@dataclass
class Chunk:
    """Consecutive rows of one source, as they were found tonight."""

    source: str
    numbers: np.ndarray
    known: np.ndarray
    """Of each row the known row that it is, -1 for a fresh one."""
    fresh: pa.RecordBatch
    """What was made of the fresh rows, in their order; in the columns of FRESH."""
    became: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int8))
    """A place in `Became` each, once they are settled."""
    twins: list[str] = field(default_factory=list)
    """The items that its near-duplicates resemble, in their order."""

    def take(self, rows: KnownRows, name: str, where: np.ndarray | None = None) -> pa.Array:
        """One column of the rows, of those `where` true only."""
        old = self.known if where is None else self.known[where]
        if self.fresh.num_rows == 0:
            return rows.take(name, old)
        fresh = self._fresh_places if where is None else self._fresh_places[where]
        values = pa.concat_arrays([rows.take(name, old[old >= 0]), self.fresh[name]])
        place = np.where(old >= 0, np.cumsum(old >= 0) - 1, fresh + (old >= 0).sum())
        return values.take(pa.array(place))

    @cached_property
    def _fresh_places(self) -> np.ndarray:
        """Of each fresh row its place among these."""
        return np.cumsum(self.known < 0) - 1

    def numbers_of(self, rows: KnownRows, name: str, where: np.ndarray | None = None) -> np.ndarray:
        """The same as numbers."""
        return as_numbers(self.take(rows, name, where))

    @property
    def claims(self) -> np.ndarray:
        """Which rows settling made items, whatever caps and near-duplicates made of them."""
        return ~np.isin(self.became, NO_CLAIM)

    def settle(self, rows: KnownRows, settling: Settling, limits: Limits, caps: Mapping[str, Cap]) -> None:
        """Say what each row became, after those of all chunks before."""
        self.became = self._alone(rows, limits)
        items = self.became == Became.ITEM
        taken = settling.take(*self._claimed(rows, items))
        self.became[items] = np.where(taken, Became.ITEM, Became.REPEATED)
        self._cap(rows, caps)

    def recall(self, rows: KnownRows, settling: Settling, caps: Mapping[str, Cap]) -> None:
        """The same where these and all before are the rows of last night, under the same rules."""
        self.became = rows.numbers("became")[self.known]
        self.became[self.claims] = Became.ITEM
        settling.add(*self._claimed(rows, self.claims))
        self._cap(rows, caps)

    def _cap(self, rows: KnownRows, caps: Mapping[str, Cap]) -> None:
        for column, cap in caps.items():
            self.became[cap.take(self.numbers_of(rows, column), self.became == Became.ITEM)] = CAPPED[column]

    def _alone(self, rows: KnownRows, limits: Limits) -> np.ndarray:
        """What each row would become if no other one had its id or content."""
        picture, width, height = (self.numbers_of(rows, name) for name in ("is_picture", "width", "height"))
        fits = np.where(misfits(width, height, limits), Became.MISFIT, Became.ITEM)
        return np.where(picture, fits, Became.REJECTED).astype(np.int8)

    def _claimed(self, rows: KnownRows, items: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return self.numbers_of(rows, "id_digest", items), self.numbers_of(rows, "same", items)


def of_items(rows: KnownRows, chunks: Sequence[Chunk], name: str, among: np.ndarray | None = None) -> pa.Array:
    """One column of all rows that are items, or of those `among` them, bool by their places."""
    # By the chunk, of which each holds what is near it alone.
    taken, start = [pa.nulls(0, KNOWN_ROWS.field(name).type)], 0
    for chunk in chunks:
        items = chunk.became == Became.ITEM
        if among is not None:
            places = np.flatnonzero(items)
            items[places] = among[start : start + len(places)]
            start += len(places)
        taken.append(chunk.take(rows, name, items))
    return pa.concat_arrays(taken)


def save_rows(rows: KnownRows, chunks: Iterable[Chunk], gone: np.ndarray, last: LastNight) -> None:
    """Write down tonight's rows, and known ones that were `gone`."""
    with written(rows.path, last) as writer:
        waiting: list[pa.RecordBatch] = []
        for batch in _batches(rows, chunks, gone):
            waiting.append(batch)
            if sum(each.num_rows for each in waiting) >= _ROWS_PER_GROUP:
                writer.write_table(pa.Table.from_batches(waiting, KNOWN_ROWS))
                waiting = []
        writer.write_table(pa.Table.from_batches(waiting, KNOWN_ROWS))


def _batches(rows: KnownRows, chunks: Iterable[Chunk], gone: np.ndarray) -> Iterator[pa.RecordBatch]:
    for chunk in chunks:
        for start in range(0, len(chunk.known), _ROWS_PER_GROUP):
            part = slice(start, start + _ROWS_PER_GROUP)
            where = np.zeros(len(chunk.known), bool)
            where[part] = True
            columns = {name: chunk.take(rows, name, where) for name in FRESH.names}
            columns["number"] = pa.array(chunk.numbers[part])
            columns["became"] = pa.array(chunk.became[part], pa.int8())
            yield pa.RecordBatch.from_arrays([columns[name] for name in KNOWN_ROWS.names], schema=KNOWN_ROWS)
    if len(gone):
        columns = {name: rows.take(name, gone) for name in KNOWN_ROWS.names}
        # It may be no item any more: what one was last night is taken to be in the corpus.
        columns["became"] = pa.array(np.full(len(gone), Became.REJECTED, np.int8))
        yield pa.RecordBatch.from_arrays([columns[name] for name in KNOWN_ROWS.names], schema=KNOWN_ROWS)
