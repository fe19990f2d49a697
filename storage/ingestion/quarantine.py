"""Tonight's rejections as they are stored, with the night that first saw each."""

import logging
from datetime import UTC, datetime

import pyarrow as pa
import pyarrow.compute as pc

from pairloom.storage.corpus import Corpus, Part, Snapshot
from pairloom.storage.files import DamagedError
from pairloom.storage.schema import QUARANTINE

logger = logging.getLogger(__name__)

REJECTED = pa.schema([field for field in QUARANTINE if field.name != "rejected_at"])
"""What tonight alone says of a rejected row."""


def write_rejections(corpus: Corpus, base: Snapshot, rejections: pa.Table) -> tuple[Part, ...]:
    """The parts of `rejections`, in the columns of REJECTED; those of `base` where they say the same."""
    besides: tuple[Part, ...] = ()
    try:
        before = pa.Table.from_batches(corpus.rejected(base), QUARANTINE)
    except DamagedError as error:
        logger.warning("rejected rows are as if seen for the first time: %s", error)
        before, besides = QUARANTINE.empty_table(), base.quarantine
    if not besides and rejections.equals(before.select(REJECTED.names)):
        return base.quarantine
    if not rejections.num_rows:
        return ()
    since = pa.nulls(rejections.num_rows, QUARANTINE.field("rejected_at").type)
    if before.num_rows:
        since = before["rejected_at"].take(pc.index_in(_named(rejections), value_set=_named(before)))
    now = pa.scalar(datetime.now(UTC), QUARANTINE.field("rejected_at").type)
    columns = [*rejections.columns, pc.fill_null(since, now)]
    return (corpus.write_quarantine(pa.Table.from_arrays(columns, schema=QUARANTINE), besides),)


def _named(rows: pa.Table) -> pa.Array:
    """What names a rejection from night to night."""
    named = pc.binary_join_element_wise(rows["source"], rows["fingerprint"], rows["reason"], "\0")
    return named.combine_chunks() if isinstance(named, pa.ChunkedArray) else named
