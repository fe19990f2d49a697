"""Which names and types people may give columns of their own: read with every configuration, without Arrow."""

from typing import Literal

ColumnType = Literal["string", "int64", "float64", "bool", "timestamp", "list<string>"]

STORED = (
    "item_id",
    "image",
    "texts",
    "group",
    "split",
    "split_named",
    "content_digest",
    "stored_digest",
    "pixel_hash",
    "perceptual_hash",
    "path",
    "width",
    "height",
    "source",
    "ingested_at",
    "thumbnail",
    "image_vector",
    "text_vector",
    "hubness",
)
"""Of `ITEM_FIELDS`, `VECTOR_FIELDS` and what stands beside them in a table of vectors."""

RESERVED_COLUMNS = frozenset(
    (
        *STORED,
        "_distance",
        "_score",
        "score",
        "rerank_score",
        "fused_score",
        "keyword_score",
        "collapsed",
        "fits",
        "fingerprint",
    )
)
"""Names a pipeline's own metadata columns may not take. Older corpus parts have a fingerprint of our own."""

# Tried with Lance 14.0.2: tests/test_config.py.
UNSTORABLE_NAMES = frozenset(
    ("_rowid", "_rowaddr", "_rowoffset", "_row_created_at_version", "_row_last_updated_at_version")
)
UNSTORABLE_CHARACTERS = frozenset(".`\0")
"""What Lance refuses as a column's name, and in one."""
