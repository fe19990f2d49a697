"""Forgets what is known of rejected images, so that the next night tries them all again."""

from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from pairloom.storage.ingestion.known_rows import DamagedRowsError, KnownRows, written
from pairloom.storage.reasons import Reason
from pairloom.storage.schema import KNOWN_ROWS

_NOTHING = 0
"""Digest of no configuration: what it decided is decided again."""


def forget_rejections(folder: Path, reason: str | None = None) -> int:
    """Forget the images of a pipeline's folder that were quarantined, or only those for `reason`; returns how many.

    Rows that were rejected without a look at their image are judged anew every night anyway.
    """
    known = KnownRows(folder / "known" / "rows.parquet")
    asked = [each.value for each in Reason if each.outcome == "quarantined" and reason in (None, each)]
    try:
        looked_at = (known.numbers("image_at") != 0).any(axis=1) & (known.numbers("decided_by") != _NOTHING)
        rejected = pc.fill_null(pc.is_in(known.column("reason"), value_set=pa.array(asked, pa.string())), False)
        columns = {name: known.column(name) for name in KNOWN_ROWS.names}
    except DamagedRowsError:  # the night, too, takes it for nothing then
        return 0
    forgotten = pc.and_(rejected, pa.array(looked_at))
    count: int = pc.sum(forgotten).as_py() or 0
    if count and known.last:
        columns["decided_by"] = pc.if_else(forgotten, pa.scalar(_NOTHING, pa.uint64()), columns["decided_by"])
        with written(known.path, known.last) as writer:
            writer.write_table(pa.Table.from_arrays([columns[name] for name in KNOWN_ROWS.names], schema=KNOWN_ROWS))
    return count
