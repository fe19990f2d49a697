"""The vector index of a table: when there is one, how it is built, how it is asked, and how right its answers are."""

import logging
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pydantic import BaseModel, Field

logger = logging.getLogger(__name__)

# N = rows, D = embedding, Q = queries, K = neighbours
Floats = npt.NDArray[np.float32]

COLUMN = "image_vector"
INDEX_NAME = "image_vector_idx"
REFINE_FACTOR = 20
"""Candidates per wanted neighbour that are ranked again by their exact vectors: quantised ones are too coarse."""
ROWS_PER_PARTITION = 8192
RETRAIN_GROWTH = 4
"""Partitions are learned anew once they hold this many times the rows they were made for."""


class IndexConfig(
    BaseModel,
    frozen=True,
    extra="forbid",
    use_attribute_docstrings=True,
    validate_by_name=True,
    validate_by_alias=True,
    serialize_by_alias=True,
):
    """How the released table is indexed."""

    kind: Literal["ivf_rq", "ivf_pq", "ivf_hnsw_sq", "none"] = "ivf_rq"
    """Kind of the vector index; `none` answers every query exactly, by reading all vectors."""
    min_rows: int = Field(default=20_000, ge=1_000)
    """Below this many rows no index is built: reading all vectors is exact and takes milliseconds."""
    min_ann_recall: float = Field(default=0.95, ge=0, le=1, alias="min_ann_recall@10")
    """Least share of the exact ten nearest items that the index must find, on a seeded sample of items."""


def nearest(
    dataset: Any, vector: Floats, *, k: int, columns: list[str], where: str | None = None, exact: bool = False
) -> pa.Table:
    """The `k` rows nearest to `vector` (length D) by cosine, with `columns` and `_distance` (1 - cosine similarity).

    `where` is a Lance filter, applied before the search. `exact` passes the index by.
    """
    return dataset.scanner(
        columns=[*columns, "_distance"],
        filter=where,
        prefilter=True,
        nearest={
            "column": COLUMN,
            "q": vector,
            "k": k,
            "metric": "cosine",
            "refine_factor": REFINE_FACTOR,
            "use_index": not exact,
        },
    ).to_table()


def indexed_kind(dataset: Any) -> str | None:
    """Kind of the dataset's vector index in the words of `IndexConfig`, None where it has none."""
    kinds = [index["type"].lower() for index in dataset.list_indices() if index["name"] == INDEX_NAME]
    return kinds[0] if kinds else None


def unindexed_rows(dataset: Any) -> int:
    """Rows that the vector index doesn't cover; 0 where there is no index."""
    return 0 if indexed_kind(dataset) is None else int(_statistics(dataset)["num_unindexed_rows"])


def bring_up_to_date(dataset: Any, config: IndexConfig) -> str | None:
    """Build, extend, rebuild or drop the vector index of `dataset` as `config` asks; returns the kind it has now.

    Costs O(new rows) but for the rare night that changes the kind or has outgrown the partitions.
    """
    rows, present = dataset.count_rows(), indexed_kind(dataset)
    wanted = None if config.kind == "none" or rows < config.min_rows else config.kind
    if wanted is None:
        if present is not None:
            dataset.drop_index(INDEX_NAME)
    elif present != wanted or _outgrown(dataset, rows):
        # One bit a dimension, then exact re-ranking: a quarter of the build time of Lance's default of five bits.
        bits = {"num_bits": 1} if wanted == "ivf_rq" else {}
        logger.info("building the %s index over %d rows", wanted, rows)
        dataset.create_index(COLUMN, wanted.upper(), name=INDEX_NAME, metric="cosine", replace=True, **bits)
    elif unindexed_rows(dataset):
        dataset.optimize.optimize_indices()
    return wanted


def recall_at_10(dataset: Any, queries_QD: Floats, exact_ids: list[list[str]]) -> float:
    """Share of each query's exact ten nearest item_ids that the index finds, averaged."""
    shares = []
    for vector_D, truth in zip(queries_QD, exact_ids, strict=True):
        found = nearest(dataset, vector_D, k=len(truth), columns=["item_id"])["item_id"].to_pylist()
        shares.append(len(set(found) & set(truth)) / len(truth))
    return float(np.mean(shares))


def _outgrown(dataset: Any, rows: int) -> bool:
    # A graph inside each partition makes large partitions cheap to search.
    if indexed_kind(dataset) == "ivf_hnsw_sq":
        return False
    partitions: int = sum(segment["num_partitions"] for segment in _statistics(dataset)["indices"])
    return rows > RETRAIN_GROWTH * ROWS_PER_PARTITION * partitions


def _statistics(dataset: Any) -> dict[str, Any]:
    statistics: dict[str, Any] = dataset.stats.index_stats(INDEX_NAME)
    return statistics
