"""Rows of the vector table: what the corpus holds of an item, joined with the model's vectors of it."""

from collections.abc import Iterable, Iterator

import pyarrow as pa
import pyarrow.compute as pc

from pairloom.models.pictures import mapped
from pairloom.storage.changes import differing_parts
from pairloom.storage.corpus import EMPTY, Corpus, Part, Snapshot
from pairloom.storage.embeddings import EmbeddingStore
from pairloom.storage.images.stored_image import thumbnail
from pairloom.tasks.stage import report_progress

PartIds = tuple[Part, pa.StringArray]
"""Some living items of one part."""


def unlike(corpus: Corpus, snapshot: Snapshot, other: Snapshot = EMPTY) -> Iterator[PartIds]:
    """The items of `snapshot` that are not written just so in `other`, by part; all of them where there is no other.

    Of parts that both have nothing is read.
    """
    for part, own in differing_parts(snapshot, other):
        yield part, corpus.part_ids(snapshot, part).combine_chunks() if own is None else own


def vector_rows(
    corpus: Corpus, snapshot: Snapshot, store: EmbeddingStore, wanted: Iterable[PartIds], schema: pa.Schema
) -> Iterator[pa.RecordBatch]:
    """Rows of the vector table for the `wanted` items, part by part; other parts are not opened."""
    wanted, done = list(wanted), 0
    total = sum(len(own) for _, own in wanted)
    for part, own in wanted:
        for batch in part_rows(corpus, snapshot, part, store.read(part), own, schema):
            done += batch.num_rows
            report_progress("index", done, total)
            yield batch


def part_rows(
    corpus: Corpus, snapshot: Snapshot, part: Part, vectors: pa.Table, wanted: pa.Array, schema: pa.Schema
) -> Iterator[pa.RecordBatch]:
    """The `wanted` items of one part, joined with their vectors."""
    stored = [name for name in schema.names if name not in (*vectors.column_names, "path", "thumbnail")]
    paths = corpus.image_paths(part)
    for items in corpus.read(snapshot, part, ["item_id", "thumbnail", *stored], among=("item_id", wanted)):
        columns = {
            **{name: items[name] for name in stored},
            "path": pa.array([paths[item_id] for item_id in items["item_id"].to_pylist()], pa.string()),
            "thumbnail": pa.array(thumbnails(corpus, snapshot, part, items), pa.binary()),
        }
        place = pc.index_in(items["item_id"], value_set=vectors["item_id"].combine_chunks())
        embedded = vectors.take(place)
        columns |= {name: embedded[name].combine_chunks() for name in embedded.column_names}
        yield pa.RecordBatch.from_arrays([columns[name] for name in schema.names], schema=schema)


def thumbnails(corpus: Corpus, snapshot: Snapshot, part: Part, items: pa.RecordBatch) -> list[bytes]:
    """The thumbnail of each of some items of one part. Parts of earlier versions have none: there they are made."""
    small, made = items["thumbnail"].to_pylist(), dict[str, bytes]()
    if items["thumbnail"].null_count:
        lacking = items.filter(pc.is_null(items["thumbnail"]))["item_id"]
        for batch in corpus.read(snapshot, part, ["item_id", "image"], among=("item_id", lacking)):
            contents = [image["bytes"] for image in batch["image"].to_pylist()]
            made.update(zip(batch["item_id"].to_pylist(), mapped(thumbnail, contents), strict=True))
    return [own or made[item_id] for own, item_id in zip(small, items["item_id"].to_pylist(), strict=True)]
