"""Neighbour lists of the items under one model, kept from one mining to the next so that it costs what changed."""

import logging
from pathlib import Path

import pyarrow as pa

from pairloom.storage.files import DamagedError
from pairloom.storage.parquet import read_parquet, write_parquet

logger = logging.getLogger(__name__)


class NeighbourStore:
    """The newest lists of one pipeline, below its folder: a file named by model and snapshot number."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "neighbours"

    def newest(self, model_id: str) -> pa.Table | None:
        """The lists of this model for the newest snapshot that has some; None where there are none that can be read."""
        for path in sorted((self.folder / model_id).glob("*.parquet"), reverse=True):
            try:
                return pa.Table.from_batches(read_parquet(path))
            except (DamagedError, ValueError) as error:
                logger.warning("neighbour lists are computed anew: %s", error)
        return None

    def write(self, model_id: str, snapshot: int, lists: pa.Table) -> None:
        """Keep `lists` of this model and snapshot, then delete all others."""
        path = self.folder / model_id / f"{snapshot:06d}.parquet"
        write_parquet(lists, path)
        for other in self.folder.glob("*/*.parquet"):
            if other != path:
                other.unlink()
        for folder in self.folder.iterdir():
            if not any(folder.iterdir()):
                folder.rmdir()
