"""The items of a release as one Parquet file."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from pairloom.search.release import OpenRelease
from pairloom.storage.schema import VECTOR_COLUMNS

ROWS_AT_ONCE = 4_096


@dataclass(frozen=True)
class Selection:
    """Items that are exported, always in the same order."""

    release: OpenRelease
    condition: str | None
    """A Lance filter; None for all items."""
    count: int
    progress: Callable[[int, int], None]
    """Hears of how many of them something was done."""

    def batches(self, columns: list[str]) -> Iterator[pa.RecordBatch]:
        """`columns` of all of them."""
        done = 0
        reader = self.release.dataset.scanner(columns=columns, filter=self.condition, batch_size=ROWS_AT_ONCE)
        for batch in reader.to_batches():
            yield batch
            done += len(batch)
            self.progress(done, self.count)


def write_table(selection: Selection, path: Path, *, vectors: bool) -> None:
    """All columns of the table, with or without both vectors of each item; of those, lists of one length."""
    release = selection.release
    names = [name for name in release.columns if vectors or name not in VECTOR_COLUMNS]
    wide = pa.list_(pa.float32(), release.record.dimension)
    fields = [release.dataset.schema.field(name) for name in names]
    schema = pa.schema([each.with_type(wide) if each.name in VECTOR_COLUMNS else each for each in fields])
    with pq.ParquetWriter(path, schema, write_page_checksum=True) as writer:
        for batch in selection.batches(names):
            writer.write_table(pa.Table.from_batches([batch]).cast(schema))
