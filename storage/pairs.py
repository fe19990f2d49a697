"""Mined pairs as Parquet, with the audit that says how good they are."""

import json
import logging
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa

from pairloom.storage.digest import digest
from pairloom.storage.files import DamagedError, FileDigest, FileDigests, damage, digest_files, written_aside
from pairloom.storage.parquet import read_parquet, write_parquet
from pairloom.storage.schema import PAIRS

logger = logging.getLogger(__name__)


class PairStore:
    """Mined pairs of one pipeline, below its folder, one folder per mining."""

    def __init__(self, folder: Path, name: str = "pairs") -> None:
        self.folder = folder / name

    def write(self, pairs_id: str, tables: Iterable[pa.Table], audit: Mapping[str, Any]) -> None:
        """Write the pairs, one part per table, then the audit: a mining is complete once its audit stands."""
        parts = []
        for number, table in enumerate(tables):
            parts.append(self.folder / pairs_id / f"part-{number:05d}.parquet")
            write_parquet(table.cast(PAIRS), parts[-1])
        files = digest_files(self.folder / pairs_id, iter(parts), {})
        # As it will be read: JSON knows no keys but strings.
        document = json.loads(json.dumps({**audit, "files": {name: each.model_dump() for name, each in files.items()}}))
        with written_aside(self._audit(pairs_id)) as aside:
            text = json.dumps({**document, "digest": digest(document)}, indent=1, sort_keys=True)
            aside.write_text(text, encoding="utf-8")

    def complete(self, pairs_id: str) -> bool:
        """Whether this mining was written to its end and is still what was written."""
        try:
            self.require_whole(pairs_id)
        except DamagedError as error:
            if self._audit(pairs_id).is_file():
                logger.warning("pairs are made anew: %s", error)
            return False
        return True

    def require_whole(self, pairs_id: str) -> None:
        """Read a mining through. Raises DamagedError where it is not complete, or not what was written."""
        folder = self.folder / pairs_id
        wrong = damage(folder, self._document(pairs_id)[0], contents=True)
        if wrong:
            raise DamagedError(f"{folder} is not whole: {'; '.join(wrong)}")

    def audit(self, pairs_id: str) -> dict[str, Any]:
        """What was mined, counted. Raises DamagedError where it isn't what was written."""
        return self._document(pairs_id)[1]

    def newest(self) -> str | None:
        """The mining that was last written to its end and is still kept; None where there is none."""
        ended = list(self.folder.glob("[!.]*/audit.json"))
        return max(ended, key=lambda path: (path.stat().st_mtime_ns, path)).parent.name if ended else None

    def read(self, pairs_id: str) -> pa.Table:
        """All pairs of one mining."""
        parts = sorted((self.folder / pairs_id).glob("part-*.parquet"))
        return pa.Table.from_batches((batch for part in parts for batch in read_parquet(part)), PAIRS)

    def _document(self, pairs_id: str) -> tuple[FileDigests, dict[str, Any]]:
        path = self._audit(pairs_id)
        try:
            document: dict[str, Any] = json.loads(path.read_bytes())
            if "digest" not in document:
                return {}, document  # of an earlier version
            if document.pop("digest") != digest(document):
                raise DamagedError(f"{path} is not what was written")
            files = {name: FileDigest.model_validate(each) for name, each in document.pop("files").items()}
        except (FileNotFoundError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise DamagedError(f"{path} can't be read: {error}") from error
        return files, document

    def _audit(self, pairs_id: str) -> Path:
        return self.folder / pairs_id / "audit.json"
