"""Tonight's rejections as they are stored, with the night that first saw each."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa

from pairloom.storage.corpus import Corpus, Part, Snapshot
from pairloom.storage.ingestion.settling import Rejection
from pairloom.storage.schema import QUARANTINE
from pairloom.storage.secrets import redacted


def write_rejections(corpus: Corpus, base: Snapshot, rejections: Sequence[Rejection]) -> tuple[Part, ...]:
    """The parts of `rejections`; those of `base` where they say the same."""
    before = [row for batch in corpus.rejected(base) for row in batch.to_pylist()]
    since = {_named(row): row["rejected_at"] for row in before}
    now = datetime.now(UTC)
    rows = [_row(each) for each in rejections]
    rows = [{**row, "rejected_at": since.get(_named(row), now)} for row in rows]
    if rows == before:
        return base.quarantine
    return (corpus.write_quarantine(pa.Table.from_pylist(rows, QUARANTINE)),) if rows else ()


def _row(rejection: Rejection) -> dict[str, Any]:
    row = rejection.row
    return {
        "fingerprint": row.fingerprint,
        "source": row.source,
        "row": row.number,
        "item_id": rejection.item_id,
        "image_path": row.image_path and redacted(row.image_path),
        "outcome": rejection.outcome,
        "reason": rejection.reason,
        "message": redacted(rejection.message),
        "attempts": rejection.attempts,
    }


def _named(row: Mapping[str, Any]) -> tuple[str, str, str]:
    return row["source"], row["fingerprint"], row["reason"]
