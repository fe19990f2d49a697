"""Forgets what is known of rejected images, so that the next night tries them all again."""

from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from pairloom.storage.files import DamagedError
from pairloom.storage.parquet import read_parquet, write_parquet
from pairloom.storage.reasons import Reason
from pairloom.storage.schema import IMAGE_FILES


def forget_rejections(folder: Path, reason: str | None = None) -> int:
    """Forget the images of a pipeline's folder that were quarantined, or only those for `reason`; returns how many.

    Rows that were rejected without a look at their image are judged anew every night anyway.
    """
    path = folder / "images" / "files.parquet"
    if not path.is_file():
        return 0
    try:
        known = pa.Table.from_batches(read_parquet(path), IMAGE_FILES)
    except (DamagedError, pa.ArrowInvalid):  # the night, too, takes it for nothing then
        return 0
    forgotten = [each.value for each in Reason if each.outcome == "quarantined" and reason in (None, each)]
    mask = pc.fill_null(pc.is_in(known["reason"], value_set=pa.array(forgotten, pa.string())), False)
    count: int = pc.sum(mask).as_py() or 0
    if count:
        write_parquet(known.filter(pc.invert(mask)), path)
    return count
