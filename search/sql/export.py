"""The rows of a statement written to a file that the caller names."""

from pathlib import Path

from pairloom.search.release import Reader
from pairloom.search.sql.attached import NOTHING, Attached
from pairloom.search.sql.limits import FILE
from pairloom.search.sql.statement import answered
from pairloom.storage.exported import export_batches, require_exportable


def export_sql(reader: Reader, sql: str, path: Path, attached: Attached = NOTHING) -> int:
    """Write what a statement gives to a Parquet, CSV, JSON or JSON lines file, by its suffix; returns how many rows.

    Whole or not at all; the rows are written as they come, so that there may be more than memory holds. Raises
    ValueError as `run_sql` does, and for a name that doesn't say how to write.
    """
    require_exportable(path)
    with answered(reader, sql, attached, FILE) as answer:
        return export_batches(answer.schema, answer.batches, path)
