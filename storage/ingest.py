"""One night's ingest: every row of every source is settled by tonight's rules; what differs from the corpus is written.

After any history of edits the corpus is what a first night over the same sources would leave (benchmarks/histories.py).
"""

import logging
from collections import Counter
from collections.abc import Mapping, Sequence

from pairloom.storage.corpus import Corpus, Snapshot
from pairloom.storage.images.config import IngestConfig
from pairloom.storage.images.decoding import decode
from pairloom.storage.ingestion.addresses import Addresses, Decoder
from pairloom.storage.ingestion.image_files import ImageFiles
from pairloom.storage.ingestion.one_pass import OnePass, Progress, RowCounts
from pairloom.storage.schema import ColumnType
from pairloom.storage.sources.columns import ColumnsConfig
from pairloom.storage.sources.config import SourceConfig
from pairloom.storage.sources.rows import read_source
from pairloom.storage.sources.source_row import UnreadableSourceError

__all__ = ["Ingest", "RowCounts"]

logger = logging.getLogger(__name__)


class Ingest:
    """Tonight's ingest, on top of the current snapshot."""

    def __init__(
        self, corpus: Corpus, keep: Mapping[str, ColumnType], config: IngestConfig, decoder: Decoder = decode
    ) -> None:
        self.corpus = corpus
        self.keep = dict(keep)
        self.config = config
        self.decoder = decoder
        # Before the base is read: whoever publishes after that takes this number away.
        self.number = corpus.log.next_number()
        self.base = corpus.current()
        self.warnings: tuple[str, ...] = ()
        """What is wrong with sources, why removals are held, and how many cells are null for what they hold."""

    def run(
        self,
        sources: Sequence[SourceConfig],
        columns: ColumnsConfig,
        progress: Progress | None = None,
        *,
        since: Snapshot | None = None,
    ) -> tuple[Snapshot, RowCounts]:
        """Read every row of every source once; commit a snapshot if anything differs. Returns the current snapshot.

        A source that can't be read costs the night its own rows alone. Raises ValueError where none of them can.

        Rows are counted against `since`: what the last release serves, say; without it against the last snapshot.
        """
        known = self.corpus.folder / "images"
        addresses = Addresses(known / "addresses.parquet", self.number)
        files = ImageFiles(known / "files.parquet", self.config, addresses.fetching(self.decoder))
        while True:
            found = OnePass(self.corpus, self.base, self.keep, self.config, files)
            bad_cells: Counter[str] = Counter()
            for source in sources:
                try:
                    rows = read_source(source, columns, self.config.texts, self.config.on_bad_cell, bad_cells)
                    found.read(addresses.listed(rows), progress)
                except UnreadableSourceError as error:
                    found.hold(source, str(error))
            if len(found.unreadable) == len(sources):
                raise ValueError("\n".join(found.unreadable.values()))
            if not (mistaken := found.decode_late()):
                break
            # Files that changed since they were listed: rare, and nothing is published yet.
            files.forget(mistaken)
        found.retire(sources)
        snapshot = found.commit(self.number)
        self.warnings = found.warnings
        if bad_cells:
            counted = ", ".join(f"{name} {count:,}" for name, count in bad_cells.most_common())
            self.warnings += (f"cells that are not of their column's type are null: {counted}",)
        for warning in self.warnings:
            logger.warning("%s", warning)
        for memory in (addresses, files):
            memory.save(unseen=bool(found.warnings))
        return snapshot, found.count(self.base if since is None else since)
