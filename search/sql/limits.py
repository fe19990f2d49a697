"""How much one statement may give and how long it may take."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from pairloom.storage.sealed import MAX_SECONDS, Deadline

MAX_TEXT = 100_000
"""Characters of a text that is encoded: no encoder reads a hundredth of that, and splitting it into words takes time
that no deadline can cut."""
BATCH_ROWS = 2_048
"""No more than DuckDB itself makes at once."""


@dataclass(frozen=True)
class Limits:
    """What a statement may give and take."""

    rows: int
    bytes: int
    seconds: float = MAX_SECONDS

    def bounded(self, reader: Any, deadline: Deadline) -> Iterator[pa.RecordBatch]:
        """The batches of an Arrow reader. Raises ValueError as soon as there is too much, or it took too long."""
        rows = size = 0
        for batch in reader:
            deadline.check()
            rows += len(batch)
            size += batch.nbytes
            if rows > self.rows:
                raise ValueError(f"the statement gives more than {self.rows} rows: add a LIMIT")
            if size > self.bytes:
                raise ValueError(
                    f"the statement gives more than {self.bytes // 2**20} MiB: select fewer columns, or add a LIMIT"
                )
            yield batch


ANSWER = Limits(rows=1_000_000, bytes=2**28)
"""Of what is held in memory."""
FILE = Limits(rows=50_000_000, bytes=2**34)
"""Of what is written to a file that the caller names."""


def checked_text(text: str) -> str:
    """`text`; ValueError where it is too long to be encoded."""
    if len(text) > MAX_TEXT:
        raise ValueError(f"a text of {len(text):,} characters is too long to be encoded: {MAX_TEXT:,} are allowed")
    return text
