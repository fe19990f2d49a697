"""The indexes of columns that people filter by: a filtered search looks rows up instead of reading the columns."""

import logging
import re
from typing import Any

import pyarrow as pa

from pairloom.storage.schema import HUBNESS, VECTOR_COLUMNS
from pairloom.storage.table.config import IndexConfig
from pairloom.storage.table.index import MAX_SEGMENTS, Work, named_index, uncovered_rows

logger = logging.getLogger(__name__)

FEW = 1_000
"""Different values up to which a column gets a bitmap of each; a tree of all otherwise."""
_PASSED_OVER = frozenset({*VECTOR_COLUMNS, HUBNESS, "texts", "thumbnail", "path", "content_digest"})
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def indexed_columns(dataset: Any) -> list[str]:
    """The columns of texts, of lists of them, of truth values, numbers and times that may be indexed.

    A wide range alone is found a little more slowly by a tree than by reading the column, beside another condition
    three times as fast (benchmarks/web.md).
    """
    return [field.name for field in dataset.schema if field.name not in _PASSED_OVER and _may(field)]


def columns_due(dataset: Any, config: IndexConfig) -> dict[str, Work]:
    """What has to be done that the columns are indexed as `config` asks; O(new rows) but for rare builds and merges."""
    wanted = config.columns and dataset.count_rows() >= config.min_rows
    return {name: _due(dataset, name, wanted=wanted) for name in indexed_columns(dataset)}


def carry_out_columns(dataset: Any, due: dict[str, Work]) -> None:
    """Do what is due."""
    for column, work in due.items():
        match work:
            case "drop":
                dataset.drop_index(_index_name(column))
            case "build":
                kind = _kind(dataset, column)
                logger.info("indexing the column %s: %s", column, kind)
                dataset.create_scalar_index(column, kind, name=_index_name(column), replace=True)
            case "extend" | "merge":
                merged = len(named_index(dataset, _index_name(column)).segments) if work == "merge" else 0
                dataset.optimize.optimize_indices(num_indices_to_merge=merged, index_names=[_index_name(column)])


def uncovered_columns(dataset: Any) -> dict[str, int]:
    """Columns whose index lacks rows, with how many."""
    counts = {name: uncovered_rows(dataset, _index_name(name)) for name in indexed_columns(dataset)}
    return {name: count for name, count in counts.items() if count}


def _index_name(column: str) -> str:
    return f"{column}_idx"


def _may(field: pa.Field) -> bool:
    kind = field.type.value_type if pa.types.is_list(field.type) else field.type
    # Lance takes a name with a dot for a path to a part of a column.
    orders = pa.types.is_string, pa.types.is_boolean, pa.types.is_integer, pa.types.is_floating, pa.types.is_timestamp
    return any(holds(kind) for holds in orders) and _NAME.fullmatch(field.name) is not None


def _due(dataset: Any, column: str, *, wanted: bool) -> Work:
    index = named_index(dataset, _index_name(column))
    if not wanted:
        return "drop" if index else "nothing"
    if index is None:
        return "build"
    if not uncovered_rows(dataset, _index_name(column)):
        return "nothing"
    return "merge" if len(index.segments) >= MAX_SEGMENTS else "extend"


def _kind(dataset: Any, column: str) -> str:
    kind = dataset.schema.field(column).type
    if pa.types.is_list(kind):
        return "LABEL_LIST"
    if not pa.types.is_string(kind) and not pa.types.is_boolean(kind):
        return "BTREE"
    seen = set[Any]()
    for batch in dataset.scanner(columns=[column], batch_size=65_536).to_batches():
        seen.update(batch[column].unique().to_pylist())
        if len(seen) > FEW:
            return "BTREE"
    return "BITMAP"
