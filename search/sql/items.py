"""The release's table as DuckDB scans it: filters and projections go down to Lance."""

from typing import Any

import pyarrow as pa
import pyarrow.dataset

from pairloom.search.release import OpenRelease
from pairloom.storage.schema import VECTOR_COLUMNS

ROW_ID = "_rowid"


class Scan(pyarrow.dataset.Dataset):  # type: ignore[misc]  # pyarrow publishes no type information
    """A Lance dataset that has its row ids for a first column.

    A statement that needs no column, as `count(*)`, has DuckDB read the first one: row ids cost nothing to read, where
    the ids of the items cost four times the filter.
    """

    def __init__(self, dataset: Any) -> None:
        self._dataset = dataset
        self._schema = pa.schema([pa.field(ROW_ID, pa.uint64()), *dataset.schema])

    @property
    def schema(self) -> pa.Schema:
        """Its columns."""
        return self._schema

    def scanner(self, columns: list[str] | None = None, filter: Any = None, **_: Any) -> Any:
        """What reads `columns` of the rows that fulfil a filter."""
        return self._dataset.scanner(columns=columns or self._schema.names, filter=filter)


def register_items(connection: Any, name: str, release: OpenRelease) -> None:
    """Register a release's table as `name`, with its columns as they stand, both vectors of one type."""
    import duckdb

    vector = duckdb.array_type("FLOAT", release.record.dimension)
    columns = [
        duckdb.ColumnExpression(each).cast(vector).alias(each)
        if each in VECTOR_COLUMNS
        else duckdb.ColumnExpression(each)
        for each in release.columns
    ]
    connection.from_arrow(Scan(release.dataset)).select(*columns).create_view(name)
