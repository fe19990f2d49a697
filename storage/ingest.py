"""One night's ingest: every row of every source is settled by tonight's rules; what differs from the corpus is written.

After any history of edits the corpus is what a first night over the same sources would leave (benchmarks/histories.py).
"""

import logging
from collections.abc import Mapping, Sequence

from pairloom.storage.corpus import Corpus, Snapshot
from pairloom.storage.images.config import IngestConfig
from pairloom.storage.images.decoding import decode
from pairloom.storage.ingestion.addresses import Addresses
from pairloom.storage.ingestion.images import Decoder, Images
from pairloom.storage.ingestion.known_rows import DamagedRowsError, KnownRows
from pairloom.storage.ingestion.one_pass import OnePass, RowCounts
from pairloom.storage.ingestion.reading import Progress
from pairloom.storage.schema import ColumnType
from pairloom.storage.sources.columns import ColumnsConfig
from pairloom.storage.sources.config import SourceConfig

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
        self.number, self.base = corpus.continued()
        self.warnings: tuple[str, ...] = ()
        """After a run: which sources can't be read, why removals are held, which cells are null."""

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
        known = KnownRows(self.corpus.folder / "known" / "rows.parquet")
        try:
            return self._run(known, sources, columns, progress, since)
        except DamagedRowsError as error:
            known.forget_all(error)
            # It may have come out after the snapshot was committed.
            self.number, self.base = self.corpus.continued()
            return self._run(known, sources, columns, progress, since)

    def _run(
        self,
        known: KnownRows,
        sources: Sequence[SourceConfig],
        columns: ColumnsConfig,
        progress: Progress | None,
        since: Snapshot | None,
    ) -> tuple[Snapshot, RowCounts]:
        addresses = Addresses(known.path.with_name("addresses.parquet"), self.number)
        images = Images(known, self.config, addresses.fetching(self.decoder))
        while True:
            found = OnePass(self.corpus, self.base, self.keep, self.config, images, addresses)
            found.read(sources, columns, progress)
            counts = found.unchanged()
            if counts and (since is None or since.digest == self.base.digest):
                self._tell(found)
                addresses.save(unseen=False)
                return self.base, counts
            if not (mistaken := found.decode_late()):
                break
            # Files that changed since they were listed: rare, and nothing is published yet.
            images.forget(mistaken)
        found.retire(sources)
        snapshot = found.commit(self.number)
        self._tell(found)
        addresses.save(unseen=bool(found.warnings))
        found.save(snapshot)
        return snapshot, found.count(self.base if since is None else since)

    def _tell(self, found: OnePass) -> None:
        self.warnings = found.warnings
        if found.bad_cells:
            counted = ", ".join(f"{name} {count:,}" for name, count in found.bad_cells.most_common())
            self.warnings += (f"cells that are not of their column's type are null: {counted}",)
        for warning in self.warnings:
            logger.warning("%s", warning)
