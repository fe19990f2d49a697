"""Index: a candidate version of a model's vector table, complete, indexed and checked, that no reader sees yet."""

import logging
from collections.abc import Iterator

import pyarrow as pa
import pyarrow.compute as pc

from pairloom.models.fitness import UnfitModelError
from pairloom.models.pictures import mapped
from pairloom.storage.checked import CheckedFiles
from pairloom.storage.corpus import Corpus, Part, Snapshot
from pairloom.storage.embeddings import EmbeddingStore
from pairloom.storage.images.stored_image import thumbnail
from pairloom.storage.releases import release_log
from pairloom.storage.schema import vector_schema
from pairloom.storage.table.vectors import VectorTable, table_name
from pairloom.tasks.pipeline import Pipeline
from pairloom.tasks.refs import EmbeddingsRef, TableRef
from pairloom.tasks.stage import report_progress, stage

logger = logging.getLogger(__name__)


@stage(retries=2)
def index(pipeline: Pipeline, vectors: EmbeddingsRef) -> TableRef:
    """Bring the table up to the snapshot's items. Raises UnfitModelError where a check of the table fails."""
    corpus, keep = Corpus(pipeline.folder), pipeline.columns.types
    snapshot = corpus.log.read(vectors.snapshot)
    table = opened(pipeline, vectors)
    held = {row["item_id"]: row for row in table.items().to_pylist()}
    wanted = corpus.table(snapshot, ["item_id", "content_digest", "split"]).to_pylist()
    missing = [row["item_id"] for row in wanted if held.get(row["item_id"]) != row]
    gone = sorted(held.keys() - {row["item_id"] for row in wanted})
    if missing:
        schema = vector_schema(vectors.dimension, keep)
        rows = vector_rows(corpus, snapshot, EmbeddingStore(pipeline.folder, vectors.model_id), missing, schema)
        table.upsert(pa.RecordBatchReader.from_batches(schema, rows))
    if gone:
        table.delete(gone)
    kind = table.build_index(pipeline.index)
    check = table.check(pipeline.index, expected_rows=snapshot.rows)
    if check.ann_recall < pipeline.index.min_ann_recall:
        # Slower answers are better than wrong ones, and than none: the night goes on without an index.
        logger.warning("no index is used: %s", "; ".join(check.problems))
        exact = pipeline.index.model_copy(update={"kind": "none"})
        kind = table.build_index(exact)
        check = table.check(exact, expected_rows=snapshot.rows)
    if check.problems:
        raise UnfitModelError(
            f"the vector table of model {vectors.model_id} failed its check: {'; '.join(check.problems)}"
        )
    return TableRef(
        model_id=vectors.model_id,
        snapshot=snapshot.number,
        path=table_name(vectors.model_id),
        version=table.version,
        rows=check.rows,
        dimension=vectors.dimension,
        index=kind,
        ann_recall=check.ann_recall if kind else None,
    )


def opened(pipeline: Pipeline, vectors: EmbeddingsRef) -> VectorTable:
    """The model's table; an empty version of it where that of its newest release is damaged."""
    folder, keep = pipeline.folder, pipeline.columns.types
    own = (release for release in release_log(folder).newest_first() if release.model_id == vectors.model_id)
    if (release := next(own, None)) and (wrong := CheckedFiles(folder).wrong(release.table_files)):
        # All that stands in it can be made again.
        logger.warning("the table of release %d is made anew: %s", release.number, "; ".join(wrong[:3]))
        return VectorTable.create(folder, vectors.model_id, dimension=vectors.dimension, keep=keep)
    return VectorTable.create_or_open(folder, vectors.model_id, dimension=vectors.dimension, keep=keep)


def vector_rows(
    corpus: Corpus, snapshot: Snapshot, store: EmbeddingStore, item_ids: list[str], schema: pa.Schema
) -> Iterator[pa.RecordBatch]:
    """Rows of the vector table for `item_ids`, part by part; parts without any of them are not opened."""
    wanted, done = pa.array(item_ids, pa.string()), 0
    for part in snapshot.parts:
        held = corpus.part_ids(snapshot, part).combine_chunks()
        if len(own := held.filter(pc.is_in(held, value_set=wanted))):
            for batch in part_rows(corpus, snapshot, part, store.read(part), own, schema):
                done += batch.num_rows
                report_progress("index", done, len(item_ids))
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
