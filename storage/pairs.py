"""Mined pairs as Parquet, with the audit that says how good they are."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa

from pairloom.storage.files import written_aside
from pairloom.storage.parquet import read_parquet, write_parquet
from pairloom.storage.schema import PAIRS


class PairStore:
    """Mined pairs of one pipeline, below its folder, one folder per mining."""

    def __init__(self, folder: Path, name: str = "pairs") -> None:
        self.folder = folder / name

    def write(self, pairs_id: str, tables: Iterable[pa.Table], audit: Mapping[str, Any]) -> None:
        """Write the pairs, one part per table, then the audit: a mining is complete once its audit stands."""
        for number, table in enumerate(tables):
            write_parquet(table.cast(PAIRS), self.folder / pairs_id / f"part-{number:05d}.parquet")
        with written_aside(self._audit(pairs_id)) as aside:
            aside.write_text(json.dumps(audit, indent=1, sort_keys=True), encoding="utf-8")

    def complete(self, pairs_id: str) -> bool:
        """Whether this mining was written to its end."""
        return self._audit(pairs_id).exists()

    def audit(self, pairs_id: str) -> dict[str, Any]:
        """What was mined, counted."""
        document: dict[str, Any] = json.loads(self._audit(pairs_id).read_bytes())
        return document

    def read(self, pairs_id: str) -> pa.Table:
        """All pairs of one mining."""
        parts = sorted((self.folder / pairs_id).glob("part-*.parquet"))
        return pa.Table.from_batches((batch for part in parts for batch in read_parquet(part)), PAIRS)

    def _audit(self, pairs_id: str) -> Path:
        return self.folder / pairs_id / "audit.json"
