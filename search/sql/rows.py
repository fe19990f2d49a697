"""A result as rows of plain values: what `pairloom sql --json` prints and people see."""

import base64
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pairloom.search.release import OpenRelease
from pairloom.storage.plain_values import json_value, plain_values

PICTURE = "picture"
_ADDRESSES = ("http://", "https://")


def json_rows(table: pa.Table) -> list[dict[str, Any]]:
    """The document that `pairloom sql --json` prints: a list of row objects."""
    columns = [[json_value(value) for value in plain_values(column)] for column in table.columns]
    return [dict(zip(table.column_names, row, strict=True)) for row in zip(*columns, strict=True)]


def with_pictures(release: OpenRelease, table: pa.Table) -> pa.Table:
    """`table` with a column `picture`, an address for each of its items; as it is where it names no `item_id`.

    That is the file where it still is one, or the address that the item came from, else the thumbnail itself as a
    `data:` address.
    """
    names = table.column_names
    if PICTURE in names or "item_id" not in names or not pa.types.is_string(table.schema.field("item_id").type):
        return table
    wanted = table["item_id"]
    known = pc.is_in(pc.field("item_id"), value_set=wanted.unique())
    found = release.dataset.to_table(columns=["item_id", "path", "thumbnail"], filter=known)
    columns = (found[name].to_pylist() for name in ("item_id", "path", "thumbnail"))
    addresses = {item_id: _address(path, thumbnail) for item_id, path, thumbnail in zip(*columns, strict=True)}
    return table.append_column(PICTURE, pa.array([addresses.get(each) for each in wanted.to_pylist()], pa.string()))


def _address(path: str | None, thumbnail: bytes) -> str:
    if path and path.lower().startswith(_ADDRESSES):
        return path
    if path and Path(path).is_absolute() and Path(path).is_file():
        return Path(path).as_uri()
    kind = "webp" if thumbnail[8:12] == b"WEBP" else "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(thumbnail).decode()}"
