"""The corpus for programs that know nothing of snapshots: one Parquet file, or its files with what is gone in them."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel

from pairloom.storage.corpus import Corpus, Snapshot
from pairloom.storage.files import written_aside
from pairloom.storage.objects import StoredPath
from pairloom.storage.parquet import ROW_GROUP
from pairloom.storage.releases import Release
from pairloom.storage.schema import item_schema


class CorpusFile(BaseModel, frozen=True):
    """One Parquet file of items."""

    path: StoredPath
    rows: int
    gone: tuple[str, ...]
    """Ids of those of its rows that are no items any more: changed since, or removed."""

    @property
    def living(self) -> int:
        """Rows that are items."""
        return self.rows - len(self.gone)


def corpus_files(corpus: Corpus, snapshot: Snapshot) -> list[CorpusFile]:
    """The files that hold the items of `snapshot`: all of their rows but for those gone are its items.

    An id may be gone in one file and an item in another.
    """
    return [
        CorpusFile(path=corpus.part_path(part), rows=part.rows, gone=snapshot.tombstones.get(part.digest, ()))
        for part in snapshot.parts
    ]


def released_files(folder: Path, release: Release) -> list[CorpusFile]:
    """Those of the snapshot that a release of the pipeline in `folder` serves. DamagedError where it isn't whole."""
    corpus = Corpus(folder)
    return corpus_files(corpus, corpus.log.read(release.snapshot))


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
