"""Column names and Arrow schemas of everything Pairloom stores: the one place that knows them."""

import json
from collections.abc import Mapping, Sequence

import pyarrow as pa

from pairloom.storage.column_names import ColumnType as ColumnType

ARROW_TYPES: dict[ColumnType, pa.DataType] = {
    "string": pa.string(),
    "int64": pa.int64(),
    "float64": pa.float64(),
    "bool": pa.bool_(),
    "timestamp": pa.timestamp("us", tz="UTC"),
    "list<string>": pa.list_(pa.string()),
}

IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])

# All nullable: `datasets` passes the image feature by where the Arrow field says otherwise.
ITEM_FIELDS: list[pa.Field] = [
    pa.field("item_id", pa.string()),
    pa.field("image", IMAGE),
    pa.field("texts", pa.list_(pa.string())),
    pa.field("group", pa.string()),
    pa.field("split", pa.string()),
    pa.field("split_named", pa.bool_()),
    pa.field("content_digest", pa.string()),
    pa.field("stored_digest", pa.string()),
    pa.field("pixel_hash", pa.string()),
    pa.field("perceptual_hash", pa.string()),
    pa.field("width", pa.int32()),
    pa.field("height", pa.int32()),
    pa.field("source", pa.string()),
    pa.field("ingested_at", pa.timestamp("us", tz="UTC")),
    pa.field("thumbnail", pa.binary()),
]
"""`split_named`: the source names the split. `content_digest`: of all that stands here but split, time and thumbnail.
`stored_digest`: of the image's bytes. `thumbnail`: a small WebP of them, null in parts of earlier versions."""

QUARANTINE = pa.schema(
    [
        pa.field("fingerprint", pa.string(), nullable=False),
        pa.field("source", pa.string(), nullable=False),
        pa.field("row", pa.int64(), nullable=False),
        pa.field("item_id", pa.string()),
        pa.field("image_path", pa.string()),
        pa.field("outcome", pa.string(), nullable=False),
        pa.field("reason", pa.string(), nullable=False),
        pa.field("message", pa.string(), nullable=False),
        pa.field("attempts", pa.int32(), nullable=False),
        pa.field("rejected_at", pa.timestamp("us", tz="UTC"), nullable=False),
    ]
)
"""Rows that are no items tonight; `rejected_at` is the night that first rejected the row for this reason."""

KNOWN_ROWS = pa.schema(
    [
        pa.field(name, kind, nullable=False)
        for name, kind in (
            ("key", pa.binary(16)),
            ("number", pa.int64()),
            ("checked", pa.int8()),
            ("image", pa.string()),
            ("version", pa.string()),
            ("length", pa.int64()),
            ("image_at", pa.binary(16)),
            ("image_bytes", pa.binary(16)),
            ("decided_by", pa.uint64()),
            ("max_side", pa.int32()),
            ("trim", pa.int8()),
            ("retry", pa.bool_()),
            ("is_picture", pa.bool_()),
            ("pixel_hash", pa.binary(16)),
            ("perceptual_hash", pa.binary(8)),
            ("width", pa.int32()),
            ("height", pa.int32()),
            ("stored_digest", pa.binary(16)),
            ("transient", pa.bool_()),
            ("attempts", pa.int32()),
            ("fingerprint", pa.binary(8)),
            ("made_id", pa.bool_()),
            ("id_digest", pa.uint64()),
            ("said", pa.uint64()),
            ("same", pa.uint64()),
            ("content_digest", pa.string()),
            ("group", pa.uint64()),
            ("split", pa.int8()),
            ("text_key", pa.uint64()),
            ("domain_key", pa.uint64()),
            ("became", pa.int8()),
        )
    ]
    + [pa.field(name, pa.string()) for name in ("reason", "message", "item_id", "image_path", "file")]
    + [pa.field("texts", pa.list_(pa.string()))]
)
"""What was made of each row of the sources, by digests of what it says; storage/ingestion/known_rows.py.

`checked`: a value of `Checked`. `length`: -1 where unknown. `image_at`, `image_bytes`: digests of the image's place and
version, and of its bytes, zero where unknown. `decided_by`, `max_side`: the configuration that it was decoded under.
`trim`: a value of `Trim`. `retry`: what refused it may pass.
Without `is_picture`, `reason` says why there is no item. `made_id`: its id is made
of the content. `split`: a place in `SPLITS`, or -1. `text_key`, `domain_key`: what caps count it by, or zero.
`became`: a value of `Became`, on that night.
`file`: which one of its source's files it stands in, where these are several. `texts`: of a picture, where
near-duplicates were merged on the night that it was read.
"""

NEAR_HASHES = pa.schema(
    [
        pa.field("first", pa.uint64(), nullable=False),
        pa.field("second", pa.uint64(), nullable=False),
        pa.field("bits", pa.int8(), nullable=False),
    ]
)
"""Perceptual hashes that differ in at most `bits` bits; each that was compared is a pair with itself."""

NEAR_PICTURES = pa.schema(
    [
        pa.field("first", pa.string(), nullable=False),
        pa.field("second", pa.string(), nullable=False),
        pa.field("same", pa.bool_(), nullable=False),
    ]
)
"""Pictures that were compared, by digests of what is stored of them, and whether they are the same to the eye."""
ADDRESSES = pa.schema(
    [
        pa.field("address", pa.string(), nullable=False),
        pa.field("sha256", pa.string()),
        pa.field("etag", pa.string()),
        pa.field("last_modified", pa.string()),
        pa.field("version", pa.string()),
        pa.field("found_sha256", pa.string()),
    ]
)
"""What was at each address when its bytes were last taken, under which version of the image that was, and the digest of
what was there when it was last asked."""

PAIRS = pa.schema(
    [
        pa.field("anchor", pa.string(), nullable=False),
        pa.field("other", pa.string(), nullable=False),
        pa.field("relation", pa.string(), nullable=False),
        pa.field("kind", pa.string(), nullable=False),
        pa.field("score", pa.float32()),
        pa.field("target", pa.float32()),
        pa.field("weight", pa.float32()),
    ]
)
"""docs/pairs.md says what they mean."""


def neighbour_schema(directions: Sequence[str], width: int) -> pa.Schema:
    """Schema of neighbour lists, an item a row: `width` row numbers and scores of each direction, nearest first.

    `vectors` and `positives` are digests of what an item's lists were computed from.
    """
    digests = [pa.field(name, pa.uint64(), nullable=False) for name in ("vectors", "positives")]
    lists = [
        pa.field(f"{direction}_{name}", pa.list_(kind, width), nullable=False)
        for direction in directions
        for name, kind in (("rows", pa.int32()), ("scores", pa.float32()))
    ]
    return pa.schema([pa.field("item_id", pa.string(), nullable=False), *digests, *lists])


VECTOR_FIELDS: list[pa.Field] = [
    pa.field("item_id", pa.string(), nullable=False),
    pa.field("texts", pa.list_(pa.string()), nullable=False),
    pa.field("group", pa.string()),
    pa.field("split", pa.string(), nullable=False),
    pa.field("path", pa.string()),
    pa.field("width", pa.int32(), nullable=False),
    pa.field("height", pa.int32(), nullable=False),
    pa.field("source", pa.string(), nullable=False),
    pa.field("content_digest", pa.string(), nullable=False),
    pa.field("thumbnail", pa.binary(), nullable=False),
]

VECTOR_COLUMNS = ("image_vector", "text_vector")
HUBNESS = "hubness"
"""Column of an image's mean cosine to the nearest training texts of its model; tables of older models have none."""


def item_schema(keep: Mapping[str, ColumnType]) -> pa.Schema:
    """Schema of a corpus part: the item columns, then the pipeline's own metadata in the order given.

    Carries the Hugging Face feature metadata that makes `datasets.load_dataset("parquet")` yield PIL images.
    """
    fields = [*ITEM_FIELDS, *(pa.field(name, ARROW_TYPES[kind]) for name, kind in keep.items())]
    features = {field.name: _feature(field.type) for field in fields}
    return pa.schema(fields, metadata={"huggingface": json.dumps({"info": {"features": features}})})


def embedding_schema(dimension: int) -> pa.Schema:
    """Schema of one embeddings part: both vectors of each item, float32, L2-normalised, length `dimension`."""
    vector = pa.list_(pa.float32(), dimension)
    return pa.schema(
        [
            pa.field("item_id", pa.string(), nullable=False),
            *(pa.field(name, vector, nullable=False) for name in VECTOR_COLUMNS),
        ]
    )


def feature_schema(width: int) -> pa.Schema:
    """Schema of one features part: what a frozen trunk makes of each item's stored image, or of each text of the part
    (with one item that has it), float32, length `width`."""
    return pa.schema(
        [
            pa.field("item_id", pa.string(), nullable=False),
            # Of the stored image, or of the text; null in parts of before there was such a digest.
            pa.field("stored_digest", pa.string()),
            pa.field("features", pa.list_(pa.float32(), width), nullable=False),
        ]
    )


def example_schema(dimension: int) -> pa.Schema:
    """Schema of the kept embeddings of added classes' examples: an example a row, L2-normalised."""
    return pa.schema(
        [
            pa.field("content_digest", pa.string(), nullable=False),
            pa.field("vector", pa.list_(pa.float32(), dimension), nullable=False),
        ]
    )


def training_text_schema(dimension: int) -> pa.Schema:
    """Schema of the kept embeddings of a model's training texts: a text a row, L2-normalised."""
    return pa.schema([pa.field("vector", pa.list_(pa.float32(), dimension), nullable=False)])


def vector_schema(dimension: int, keep: Mapping[str, ColumnType], *, hubness: bool = False) -> pa.Schema:
    """Schema of the released vector table: vectors, texts, thumbnail, then the pipeline's own metadata.

    `hubness` where the model has training texts to measure it by.
    """
    image_vector, text_vector = VECTOR_COLUMNS
    return pa.schema(
        [
            VECTOR_FIELDS[0],
            pa.field(image_vector, pa.list_(pa.float32(), dimension), nullable=False),
            # Of variable length on purpose: LanceDB refuses plain `table.search("a red shoe")` on a table with two
            # columns of one fixed length, since it can't tell which of them is meant.
            pa.field(text_vector, pa.list_(pa.float32()), nullable=False),
            *([pa.field(HUBNESS, pa.float32(), nullable=False)] if hubness else []),
            *VECTOR_FIELDS[1:],
            *(pa.field(name, ARROW_TYPES[kind]) for name, kind in keep.items()),
        ]
    )


def words_schema(dimension: int) -> pa.Schema:
    """Schema of word vectors: a word's own vector, and the one it has as the context of others."""
    vector = pa.list_(pa.float32(), dimension)
    return pa.schema(
        [
            pa.field("word", pa.string(), nullable=False),
            pa.field("count", pa.int64(), nullable=False),
            pa.field("vector", vector, nullable=False),
            pa.field("context", vector, nullable=False),
        ]
    )


def _feature(kind: pa.DataType) -> dict[str, object]:
    if kind == IMAGE:
        return {"_type": "Image"}
    if pa.types.is_list(kind):
        return {"_type": "List", "feature": _feature(kind.value_type)}
    names = {
        pa.binary(): "binary",
        pa.int64(): "int64",
        pa.int32(): "int32",
        pa.float64(): "float64",
        pa.bool_(): "bool",
    }
    if pa.types.is_timestamp(kind):
        return {"dtype": "timestamp[us, tz=UTC]", "_type": "Value"}
    return {"dtype": names.get(kind, "string"), "_type": "Value"}
