"""The vector index of a table: when there is one, how it is built, how it is asked, and how right its answers are."""

import logging
import math
from collections.abc import Collection
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pairloom.storage.table.config import IndexConfig
from pairloom.storage.table.effort import Effort, K

logger = logging.getLogger(__name__)

# N = rows, D = embedding, Q = queries, K = neighbours
Floats = npt.NDArray[np.float32]

COLUMN = "image_vector"
INDEX_NAME = "image_vector_idx"
TIE = 1e-5
"""Similarities closer than this differ by the order of summation only."""
ROWS_PER_PARTITION = 8192
ONE_BIT = 256
"""Dimensions from which `ivf_rq` keeps one bit of each, else five. Of 100,000 rows of 64 dimensions, one bit each found
0.93 of the nearest ten, five bits 0.997; of 512 one bit finds all, in a quarter of the build time."""
MAX_SEGMENTS = 16
"""Every night adds a segment to the index, all of which each query searches: at this many they are merged into one."""
RETRAIN_GROWTH = 4
"""Partitions are learned anew once they hold this many times the rows they were made for."""
Work = Literal["nothing", "drop", "build", "extend", "merge"]
"""What brings an index up to date: `extend` adds a segment of the rows that none covers, `merge` makes one of all."""


def nearest(
    dataset: Any,
    vector: Floats,
    *,
    k: int,
    columns: list[str],
    where: str | None = None,
    exact: bool = False,
    spare: int = 0,
    behind: int = 0,
) -> pa.Table:
    """The `k` rows nearest to `vector` (length D) by cosine, with `columns` and `_distance` (1 - cosine similarity).

    `where` is a Lance filter, applied before the search. `exact` passes the index by; else it is asked with the effort
    that the dataset's metadata names, of which the last `spare` rows, wanted for what ties with the others, get none,
    and the `behind` before them, wanted for what they might put in front of the others, little.
    """
    effort = Effort.of(dataset)
    candidates = effort.candidates(k - spare, coarse=_coarse(dataset, len(vector)), behind=behind)
    return dataset.scanner(
        columns=[*columns, "_distance"],
        filter=where,
        prefilter=True,
        nearest={
            "column": COLUMN,
            "q": vector,
            "k": k,
            "metric": "cosine",
            "refine_factor": math.ceil(candidates / k),
            "minimum_nprobes": effort.probes,
            "use_index": not exact,
        },
    ).to_table()


def indexed_kind(dataset: Any) -> str | None:
    """Kind of the dataset's vector index in the words of `IndexConfig`, None where it has none."""
    index = _index(dataset)
    return None if index is None else str(index.index_type).lower()


def unindexed_rows(dataset: Any) -> int:
    """Rows that the vector index doesn't cover; 0 where there is no index."""
    return uncovered_rows(dataset, INDEX_NAME)


def uncovered_rows(dataset: Any, name: str) -> int:
    """Rows that the index of a name doesn't cover; 0 where there is no such index."""
    index = named_index(dataset, name)
    if index is None:
        return 0
    covered = {fragment for segment in index.segments for fragment in segment.fragment_ids}
    return sum(each.count_rows() for each in dataset.get_fragments() if each.fragment_id not in covered)


def named_index(dataset: Any, name: str) -> Any:
    """What Lance says of the index of a name; None where there is none."""
    return next((each for each in dataset.describe_indices() if each.name == name), None)


def due(dataset: Any, config: IndexConfig) -> Work:
    """What has to be done that the vector index of `dataset` is as `config` asks.

    Costs O(new rows) but for the rare night that changes the kind, has outgrown the partitions or merges the segments.
    """
    wanted, present = wanted_kind(dataset, config), indexed_kind(dataset)
    if wanted is None:
        return "drop" if present else "nothing"
    if present != wanted or _outgrown(dataset, dataset.count_rows()):
        return "build"
    if not unindexed_rows(dataset):
        return "nothing"
    return "merge" if len(_index(dataset).segments) >= MAX_SEGMENTS else "extend"


def wanted_kind(dataset: Any, config: IndexConfig) -> str | None:
    """The kind of index that `dataset` is to have: the one that `config` names, or what stands in for it."""
    rows, effort = dataset.count_rows(), Effort.of(dataset)
    kind = effort.kind if effort.serves(config, rows) else config.kind
    return None if kind in ("none", None) or rows < config.min_rows else kind


def carry_out(dataset: Any, work: Work, kind: str | None) -> None:
    """Do what is `due`; `kind` is the wanted one."""
    match work:
        case "drop":
            dataset.drop_index(INDEX_NAME)
        case "build":
            assert kind is not None
            logger.info("building the %s index over %d rows", kind, dataset.count_rows())
            tuning = _tuning(kind, dataset.schema.field(COLUMN).type.list_size)
            dataset.create_index(COLUMN, kind.upper(), name=INDEX_NAME, metric="cosine", replace=True, **tuning)
        case "extend" | "merge":
            merged = len(_index(dataset).segments) if work == "merge" else 0
            dataset.optimize.optimize_indices(num_indices_to_merge=merged, index_names=[INDEX_NAME])


def recall_at_10(dataset: Any, queries_QD: Floats, exact_QK: Floats, fragments: Collection[int] | None = None) -> float:
    """Share of each query's ten nearest rows that the index finds, averaged.

    `exact_QK`: the similarities of the nearest among the rows of `fragments` (of all rows for None), descending. Of the
    other rows the nearest are taken to be those that the index finds: what a release was measured by, it still finds.
    A row as near as the tenth counts whichever it is: copies of one picture are all equally near.
    """
    shares = []
    for vector_D, exact_K in zip(queries_QD, exact_QK, strict=True):
        found = nearest(dataset, vector_D, k=K, columns=["_rowaddr"])
        found_K, fragment_K = 1 - found["_distance"].to_numpy(), found["_rowaddr"].to_numpy() >> 32
        others_K = [] if fragments is None else found_K[~np.isin(fragment_K, list(fragments))]
        best_K = -np.sort(-np.concatenate([exact_K, others_K]))[:K]
        shares.append(min(1.0, float((found_K >= best_K[-1] - TIE).sum() / len(best_K))))
    return float(np.mean(shares))


def _tuning(kind: str, dimension: int) -> dict[str, int]:
    match kind:
        case "ivf_rq":
            return {"num_bits": 1 if dimension >= ONE_BIT else 5}
        case "ivf_pq":
            return {"num_sub_vectors": dimension // 8 if dimension % 8 == 0 else 1}
        case _:
            return {}


def _coarse(dataset: Any, dimension: int) -> bool:
    """Whether the index keeps about a bit of each dimension."""
    kind = indexed_kind(dataset)
    return kind == "ivf_pq" or (kind == "ivf_rq" and dimension >= ONE_BIT)


def _outgrown(dataset: Any, rows: int) -> bool:
    # A graph inside each partition makes large partitions cheap to search.
    if indexed_kind(dataset) == "ivf_hnsw_sq":
        return False
    partitions = len(dataset.get_ivf_model(INDEX_NAME).centroids)
    return rows > RETRAIN_GROWTH * ROWS_PER_PARTITION * partitions


def _index(dataset: Any) -> Any:
    return named_index(dataset, INDEX_NAME)
