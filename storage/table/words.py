"""The full-text index of a table: which rows hold a word, of every writing; built, extended and asked."""

import logging
from typing import Any

import pyarrow as pa

from pairloom.storage.schema import VECTOR_COLUMNS
from pairloom.storage.table.config import IndexConfig
from pairloom.storage.table.index import MAX_SEGMENTS, Work, named_index, uncovered_rows

logger = logging.getLogger(__name__)

COLUMN = "texts"
INDEX_NAME = "texts_idx"

# Words as Unicode's dictionaries part them, Chinese, Japanese and Thai among them, and at what parts them in names:
# `SKU-17/b` is three. Upper case and accents don't count. Nothing is cut off or left out, since nobody knows which
# language the texts are in.
_WORDS: dict[str, Any] = {
    "base_tokenizer": "icu/split",
    "lower_case": True,
    "ascii_folding": True,
    "stem": False,
    "remove_stop_words": False,
    "max_token_length": 40,
    "with_position": False,
}


def words_due(dataset: Any, config: IndexConfig) -> Work:
    """What has to be done that the words of `dataset` are indexed as `config` asks; O(new rows) but for rare merges."""
    index = named_index(dataset, INDEX_NAME)
    if not config.full_text:
        return "drop" if index else "nothing"
    if index is None:
        return "build"
    if not uncovered_rows(dataset, INDEX_NAME):
        return "nothing"
    return "merge" if len(index.segments) >= MAX_SEGMENTS else "extend"


def carry_out_words(dataset: Any, work: Work) -> None:
    """Do what is due."""
    match work:
        case "drop":
            dataset.drop_index(INDEX_NAME)
        case "build":
            logger.info("building the full-text index over %d rows", dataset.count_rows())
            dataset.create_scalar_index(COLUMN, "INVERTED", name=INDEX_NAME, replace=True, **_WORDS)
        case "extend" | "merge":
            merged = len(named_index(dataset, INDEX_NAME).segments) if work == "merge" else 0
            dataset.optimize.optimize_indices(num_indices_to_merge=merged, index_names=[INDEX_NAME])


def has_words(dataset: Any) -> bool:
    """Whether the words of `dataset` are indexed."""
    return named_index(dataset, INDEX_NAME) is not None


def with_words(dataset: Any) -> Any:
    """`dataset` where its words are indexed; else a copy in memory of all but its vectors and pictures, indexed now.

    Its rows have the same offsets.
    """
    if has_words(dataset):
        return dataset
    import lance

    logger.warning("this release has no full-text index: its texts are read and indexed in memory")
    names = [name for name in dataset.schema.names if name not in (*VECTOR_COLUMNS, "thumbnail")]
    copy = lance.write_dataset(dataset.scanner(columns=names).to_reader(), "memory://")
    carry_out_words(copy, "build")
    return copy


def holding(dataset: Any, words: str, *, k: int, where: str | None = None) -> pa.Table:
    """`item_id`, `_rowoffset` and `_score` (BM25) of the `k` rows that hold words of `words` best, in no order.

    `dataset` is one of `with_words`. `words` is a text without any syntax; `where` a Lance filter, applied before.
    """
    from lance.query import MatchQuery

    return dataset.scanner(
        columns=["item_id", "_rowoffset", "_score"],
        full_text_query=MatchQuery(words, COLUMN),
        filter=where,
        prefilter=True,
        limit=k,
    ).to_table()
