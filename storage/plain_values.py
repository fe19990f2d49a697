"""Values of Arrow tables in Python's types, and as JSON can hold them."""

import base64
import contextlib
import datetime
import decimal
import math
from typing import Any

import pyarrow as pa

from pairloom.storage.sealed import sealed_connection


def json_value(value: Any) -> Any:
    """`value` as JSON can hold it: times in ISO 8601, bytes in base64, NaN as null, whole decimals as integers."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    if isinstance(value, datetime.datetime | datetime.date | datetime.time):
        return value.isoformat()
    if isinstance(value, decimal.Decimal):
        return int(value) if value == value.to_integral_value() else float(value)
    if isinstance(value, dict):
        return {str(key): json_value(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [json_value(each) for each in value]
    return value if value is None or isinstance(value, str | int) else str(value)


def plain_values(column: pa.ChunkedArray) -> list[Any]:
    """The column in Python's types, or as DuckDB's text where these don't reach: years before 1 and after 9999."""
    try:
        values: list[Any] = column.to_pylist()
    except (OverflowError, ValueError):
        with contextlib.closing(sealed_connection()) as connection:
            texts = connection.from_arrow(pa.table({"value": column})).select("CAST(value AS VARCHAR)")
            return [text for (text,) in texts.fetchall()]
    return values
