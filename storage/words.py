"""Word vectors of one pipeline as Parquet, named by the texts and settings they were learned from."""

import logging
from pathlib import Path

import pyarrow as pa

from pairloom.storage.files import DamagedError
from pairloom.storage.parquet import read_parquet, write_parquet

logger = logging.getLogger(__name__)

KEPT = 4


class WordStore:
    """The newest word vectors of one pipeline, below its folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "words"

    def read(self, words_id: str) -> pa.Table | None:
        """Words with count, vector and context vector; None where there are none, or none that can be read."""
        path = self._path(words_id)
        if not path.is_file():
            return None
        try:
            return pa.Table.from_batches(read_parquet(path))
        except DamagedError as error:
            logger.warning("word vectors are learned anew: %s", error)
            return None

    def write(self, words_id: str, words: pa.Table) -> None:
        """Keep these, and the newest few of the others."""
        write_parquet(words, self._path(words_id))
        files = sorted(self.folder.glob("*.parquet"), key=lambda file: file.stat().st_mtime_ns, reverse=True)
        for old in files[KEPT:]:
            old.unlink(missing_ok=True)

    def _path(self, words_id: str) -> Path:
        return self.folder / f"{words_id}.parquet"
