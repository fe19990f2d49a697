"""What must hold of a version of the vector table before a release may name it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import BaseModel

from pairloom.storage.table.columns import uncovered_columns
from pairloom.storage.table.config import IndexConfig
from pairloom.storage.table.effort import K
from pairloom.storage.table.index import (
    COLUMN,
    Floats,
    indexed_kind,
    recall_at_10,
    uncovered_rows,
    unindexed_rows,
)
from pairloom.storage.table.words import INDEX_NAME as WORDS_INDEX

# N = rows, D = embedding, Q = queries, K = neighbours


class TableCheck(BaseModel, frozen=True, extra="forbid", use_attribute_docstrings=True):
    """What a check of a table version found."""

    rows: int
    unindexed_rows: int
    unindexed_texts: int
    """Rows whose words the full-text index doesn't cover; 0 where there is none."""
    duplicate_ids: int
    bad_vectors: int
    """Vectors with a NaN or a length other than 1."""
    ann_recall: float
    """Recall@10 of the index against exact search on a sample of items; 1 where there is no index."""
    problems: list[str]
    """Why this version may not be released; empty when it may."""


def check_table(
    dataset: Any,
    config: IndexConfig,
    *,
    expected_rows: int,
    sample: int,
    seed: int,
    fresh: Sequence[int] | None = None,
) -> TableCheck:
    """Read every vector of `dataset` once; measure its index on a `sample` of items drawn with `seed`.

    Of `fresh` fragments only, where the others were checked before, and have no key of these.
    """
    rows = dataset.count_rows()
    some = None if fresh is None else [dataset.get_fragment(each) for each in fresh]
    queries_QD = _queries(dataset, rows if some is None else sum(each.count_rows() for each in some), sample, seed)
    survey = _survey(dataset, some, queries_QD)
    unindexed, unindexed_texts = unindexed_rows(dataset), uncovered_rows(dataset, WORDS_INDEX)
    lacking = uncovered_columns(dataset)
    indexed = indexed_kind(dataset) is not None and len(queries_QD) > 0
    recall = recall_at_10(dataset, queries_QD, survey.nearest, fresh) if indexed else 1.0
    duplicates = 0 if fresh is not None else _duplicates(dataset)
    problems = [
        (rows != expected_rows, f"{rows} rows, expected {expected_rows}"),
        (duplicates > 0, f"{duplicates} rows repeat an item_id"),
        (survey.bad > 0, f"{survey.bad} vectors hold NaN or aren't of length 1"),
        (unindexed > 0, f"{unindexed} rows aren't indexed"),
        (unindexed_texts > 0, f"the words of {unindexed_texts} rows aren't indexed"),
        (bool(lacking), f"the index of {', '.join(lacking)} lacks {max(lacking.values(), default=0)} rows"),
        (
            recall < config.min_ann_recall,
            f"the index finds {recall:.3f} of the exact ten nearest, wanted {config.min_ann_recall}",
        ),
    ]
    return TableCheck(
        rows=rows,
        unindexed_rows=unindexed,
        unindexed_texts=unindexed_texts,
        duplicate_ids=duplicates,
        bad_vectors=survey.bad,
        ann_recall=recall,
        problems=[message for wrong, message in problems if wrong],
    )


def _duplicates(dataset: Any) -> int:
    ids = dataset.to_table(columns=["item_id"])["item_id"]
    return len(ids) - int(pc.count_distinct(ids).as_py())


def _queries(dataset: Any, candidates: int, size: int, seed: int) -> Floats:
    """Queries (Q, D) as people ask them: half are image vectors, half the text vectors of other items.

    They are drawn from the last `candidates` rows: new fragments come last.
    """
    first = dataset.count_rows() - candidates
    chosen = first + np.random.default_rng(seed).choice(candidates, size=min(size, candidates), replace=False)
    if not len(chosen):
        return np.empty((0, 1), np.float32)
    taken = dataset.take(sorted(chosen), columns=[COLUMN, "text_vector"]).combine_chunks()
    image_QD = _matrix(taken[COLUMN].chunk(0))
    text_QD = _ragged(taken["text_vector"].chunk(0), image_QD.shape)
    queries_QD: Floats = np.concatenate([image_QD[::2], text_QD[1::2]])
    finite_QD: Floats = queries_QD[np.isfinite(queries_QD).all(axis=1)]
    return finite_QD


@dataclass(frozen=True)
class _Survey:
    bad: int
    nearest: Floats
    """(Q, K)."""


def _survey(dataset: Any, fragments: list[Any] | None, queries_QD: Floats) -> _Survey:
    """One pass over the vectors of some fragments, of all for None: how many are bad, and each query's ten largest
    similarities, best first.
    """
    bad = 0
    best_QK = np.empty((len(queries_QD), 0), np.float32)
    reader = dataset.scanner(columns=[COLUMN, "text_vector"], fragments=fragments, batch_size=8192)
    for batch in reader.to_batches():
        image_ND = _matrix(batch[COLUMN])
        for vectors_ND in (image_ND, _ragged(batch["text_vector"], image_ND.shape)):
            # NaN fails this comparison too.
            bad += int((~(np.abs(np.linalg.norm(vectors_ND, axis=1) - 1) < 1e-3)).sum())
        if not len(queries_QD):
            continue
        scores_QN = np.nan_to_num(queries_QD @ image_ND.T, nan=-1)
        candidates_QN = np.concatenate([best_QK, scores_QN], axis=1)
        cut = max(candidates_QN.shape[1] - K, 0)
        best_QK = np.partition(candidates_QN, cut, axis=1)[:, cut:]
    return _Survey(bad=bad, nearest=-np.sort(-best_QK, axis=1))


def _matrix(vectors: pa.FixedSizeListArray) -> Floats:
    width = vectors.type.list_size
    flat: Floats = vectors.flatten().to_numpy(zero_copy_only=False)
    return flat.reshape(-1, width)


def _ragged(vectors: pa.ListArray, shape: tuple[int, ...]) -> Floats:
    """The vectors as a matrix of `shape`; one of another length makes its row NaN, so that it counts as bad."""
    lengths = vectors.value_lengths().to_numpy(zero_copy_only=False)
    if (lengths == shape[1]).all():
        flat: Floats = vectors.flatten().to_numpy(zero_copy_only=False)
        return flat.reshape(shape)
    rows = [row if len(row) == shape[1] else [np.nan] * shape[1] for row in vectors.to_pylist()]
    return np.asarray(rows, dtype=np.float32)
