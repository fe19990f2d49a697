"""The corpus as one Parquet file, for programs that know nothing of snapshots."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from pairloom.storage.corpus import Corpus, Snapshot
from pairloom.storage.files import written_aside
from pairloom.storage.parquet import ROW_GROUP
from pairloom.storage.schema import item_schema


def export_items(corpus: Corpus, snapshot: Snapshot, path: Path) -> None:
    """Write all living items of `snapshot`, and nothing else, at `path`; one part is held in memory at a time.

    `datasets.load_dataset("parquet", data_files=str(path))` yields PIL images.
    """
    columns = corpus.columns(snapshot)
    whole = item_schema(snapshot.keep or {})
    first = next((each.schema for part in snapshot.parts for each in corpus.read(snapshot, part, columns)), whole)
    schema = pa.schema([first.field(name) for name in columns], metadata=whole.metadata)
    with written_aside(path) as aside, pq.ParquetWriter(aside, schema, write_page_checksum=True) as writer:
        for part in snapshot.parts:
            items = pa.Table.from_batches(corpus.read(snapshot, part, columns), schema)
            writer.write_table(items, row_group_size=ROW_GROUP)
