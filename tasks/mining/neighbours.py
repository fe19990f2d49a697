"""The champion's neighbour lists for tonight, from the stored ones where those still hold."""

from collections.abc import Callable

import numpy as np
import pyarrow as pa

from pairloom.models.arrays import Embeddings
from pairloom.models.batches.relations import Relations
from pairloom.models.mining.lists import DIRECTIONS, NeighbourLists, neighbour_lists
from pairloom.models.mining.neighbours import Neighbours
from pairloom.storage.corpus import Snapshot
from pairloom.storage.neighbours import NeighbourStore
from pairloom.storage.schema import neighbour_schema
from pairloom.tasks.mining.searching import searching
from pairloom.tasks.pipeline import Pipeline


def followed_lists(
    pipeline: Pipeline,
    model_id: str,
    snapshot: Snapshot,
    vectors: tuple[Embeddings, Embeddings],
    relations: Relations,
    progress: Callable[[float], None],
) -> NeighbourLists:
    """Lists of `mining.range_max` neighbours over the snapshot's items, which are kept for the next night.

    `vectors` are those of images and of texts, by this model, in the order of `relations`.
    """
    store, width = NeighbourStore(pipeline.folder), pipeline.mining.range_max
    stored = store.newest(model_id)
    old = None if stored is None else lists_of(stored)
    with searching(pipeline, model_id, snapshot, relations) as search:
        lists = neighbour_lists(*vectors, relations, width, old=old, progress=progress, search=search)
    store.write(model_id, snapshot.number, table_of(lists))
    return lists


def table_of(lists: NeighbourLists) -> pa.Table:
    """Neighbour lists as they are stored."""
    columns = [pa.array(lists.item_ids, pa.string()), pa.array(lists.vectors_N), pa.array(lists.positives_N)]
    for direction in DIRECTIONS:
        found = lists.by_direction[direction]
        width = found.indices_QK.shape[1]
        columns += [
            pa.FixedSizeListArray.from_arrays(pa.array(values.ravel()), width)
            for values in (found.indices_QK, found.scores_QK)
        ]
    return pa.table(columns, schema=neighbour_schema(DIRECTIONS, width))


def lists_of(stored: pa.Table) -> NeighbourLists:
    """Neighbour lists from how they are stored."""
    return NeighbourLists(
        tuple(stored["item_id"].to_pylist()),
        stored["vectors"].to_numpy(),
        stored["positives"].to_numpy(),
        {
            direction: Neighbours(_matrix(stored[f"{direction}_rows"]), _matrix(stored[f"{direction}_scores"]))
            for direction in DIRECTIONS
        },
    )


def _matrix(column: pa.ChunkedArray) -> np.ndarray:
    flat: np.ndarray = column.combine_chunks().flatten().to_numpy()
    return flat.reshape(len(column), -1)
