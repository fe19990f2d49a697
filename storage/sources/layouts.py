"""Columns of tables that well-known tools write, for those that `columns` leaves at their defaults."""

import json

import pyarrow as pa

from pairloom.storage.sources.columns import ColumnsConfig

_DEFAULT = ColumnsConfig()
_IMAGES = ("jpg", "png", "webp")
"""As img2dataset names them, by `encode_format`."""
_TEXTS = ("txt", "caption", "texts")
_IMG2DATASET = {"key", "status", "error_message"}
_CORPUS = {"item_id", "texts", "group", "content_digest"}


def laid_out(columns: ColumnsConfig, schema: pa.Schema) -> ColumnsConfig:
    """`columns` for a table of this schema.

    Where the table has no column of the default's name, the image is the first that `datasets` marks as one, else
    `jpg`, `png` or `webp`; the text is `txt`, `caption` or `texts`. Rows of img2dataset are called by their `key`,
    those of another pipeline's corpus by their `item_id`, and the latter keep their `group`.
    """
    names = set(schema.names)
    change: dict[str, str | list[str] | None] = {}
    if columns.image == _DEFAULT.image and columns.image not in names:
        change["image"] = next((each for each in (*_marked(schema), *_IMAGES) if each in names), columns.image)
    if columns.texts == _DEFAULT.texts and not names.intersection(columns.texts):
        change["texts"] = [next((each for each in _TEXTS if each in names), *columns.texts)]
    if columns.id is None:
        change["id"] = "key" if names >= _IMG2DATASET else "item_id" if names >= _CORPUS else None
    if columns.group is None and names >= _CORPUS:
        change["group"] = "group"
    return columns.model_copy(update=change)


def _marked(schema: pa.Schema) -> list[str]:
    """Columns that `datasets` says hold images."""
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
        return [name for name, feature in features.items() if feature.get("_type") == "Image"]
    except (KeyError, ValueError, TypeError, AttributeError):
        return []
