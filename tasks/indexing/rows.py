"""Rows of the vector table: what the corpus holds of an item, joined with the model's vectors of it."""

# N = rows, T = training texts, D = embedding

from collections.abc import Iterable, Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pairloom.models.arrays import Embeddings
from pairloom.models.evaluation.hubness import hubness
from pairloom.models.pictures import mapped
from pairloom.storage.changes import differing_parts
from pairloom.storage.corpus import EMPTY, Corpus, Part, Snapshot
from pairloom.storage.embeddings import EmbeddingStore
from pairloom.storage.images.stored_image import thumbnail
from pairloom.storage.schema import HUBNESS
from pairloom.storage.training_texts import TrainingTexts
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
    corpus: Corpus,
    snapshot: Snapshot,
    store: EmbeddingStore,
    wanted: Iterable[PartIds],
    schema: pa.Schema,
    texts: TrainingTexts,
) -> Iterator[pa.RecordBatch]:
    """Rows of the vector table for the `wanted` items, part by part; other parts are not opened.

    Where `schema` has their hubness, it is measured by the model's training `texts`.
    """
    wanted, done = list(wanted), 0
    total = sum(len(own) for _, own in wanted)
    text_TD = texts.vectors() if total and HUBNESS in schema.names else None
    for part, own in wanted:
        for batch in part_rows(corpus, snapshot, part, store.read(part), own, schema, text_TD):
            done += batch.num_rows
            report_progress("index", done, total)
            yield batch


def part_rows(
    corpus: Corpus,
    snapshot: Snapshot,
    part: Part,
    vectors: pa.Table,
    wanted: pa.Array,
    schema: pa.Schema,
    text_TD: Embeddings | None = None,
) -> Iterator[pa.RecordBatch]:
    """The `wanted` items of one part, joined with their vectors; `text_TD` measure their hubness, if any."""
    stored = [name for name in schema.names if name not in (*vectors.column_names, "path", "thumbnail", HUBNESS)]
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
        if text_TD is not None:
            image_ND = np.asarray(columns["image_vector"].flatten(), np.float32).reshape(len(items), -1)
            columns[HUBNESS] = pa.array(hubness(image_ND, text_TD), pa.float32())
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
