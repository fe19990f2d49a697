"""Retrieval quality both ways, aware of groups: finding any known positive counts."""

# N = items, T = unique texts, D = embedding, Q = queries, C = candidates

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, Field

from models.relations import Indices, Mask, Relations

Embeddings = npt.NDArray[np.float32]

DIRECTIONS = ("text_to_image", "image_to_text")
BLOCK = 1 << 24  # scores held at once


class EvaluationConfig(BaseModel, frozen=True, extra="forbid", use_attribute_docstrings=True):
    """What is reported about a model."""

    k: tuple[int, ...] = Field(default=(1, 5, 10), min_length=1)
    """Recall is reported among this many best candidates."""
    slices: tuple[str, ...] = ()
    """Columns by whose values recall is reported, too."""


@dataclass(frozen=True)
class Slice:
    """The queries that belong to one value of a column."""

    text_queries_T: Mask
    image_queries_N: Mask


@dataclass(frozen=True)
class RetrievalMetrics:
    """Rank of the best positive for every query (0 = first), kept for paired comparison."""

    k: tuple[int, ...]
    text_queries: tuple[str, ...]
    image_queries: tuple[str, ...]
    text_to_image_ranks_T: Indices
    image_to_text_ranks_N: Indices
    slices: Mapping[str, Slice]
    """Keyed `column=value`."""

    def as_dict(self) -> dict[str, float]:
        """`text_to_image_recall@1` … and, for slices, `text_to_image_recall@1/column=value` …; each from 0 to 1."""
        everything = Slice(np.ones(len(self.text_queries), bool), np.ones(len(self.image_queries), bool))
        recalls = {}
        for suffix, part in [("", everything), *((f"/{name}", part) for name, part in self.slices.items())]:
            by_direction = (
                self.text_to_image_ranks_T[part.text_queries_T],
                self.image_to_text_ranks_N[part.image_queries_N],
            )
            for direction, ranks in zip(DIRECTIONS, by_direction, strict=True):
                for k in self.k:
                    recalls[f"{direction}_recall@{k}{suffix}"] = float((ranks < k).mean())
        return recalls

    def ranks(self, direction: str) -> Indices:
        """Ranks of one of `DIRECTIONS`."""
        return self.text_to_image_ranks_T if direction == "text_to_image" else self.image_to_text_ranks_N


def evaluate(
    image_ND: Embeddings,
    text_TD: Embeddings,
    relations: Relations,
    config: EvaluationConfig,
    slices: Mapping[str, Sequence[str | None]],
) -> RetrievalMetrics:
    """Metrics of N images and the T unique texts of `relations` (`text_TD` follows `relations.texts`).

    `slices` holds, for every column of `config.slices`, its value for each item. Ties count against the model: a
    candidate that scores as high as the best positive is ranked before it.
    """
    if image_ND.shape[0] != len(relations) or text_TD.shape[0] != len(relations.texts) or len(relations) == 0:
        raise ValueError(
            f"evaluation has {image_ND.shape[0]} image and {text_TD.shape[0]} text embeddings for "
            f"{len(relations)} items with {len(relations.texts)} unique texts"
        )
    items_N, texts_T = np.arange(len(relations)), np.arange(len(relations.texts))
    return RetrievalMetrics(
        k=config.k,
        text_queries=relations.texts,
        image_queries=relations.item_ids,
        text_to_image_ranks_T=_ranks(text_TD, image_ND, lambda rows: relations.text_mask(items_N, texts_T[rows]).T),
        image_to_text_ranks_N=_ranks(image_ND, text_TD, lambda rows: relations.text_mask(items_N[rows], texts_T)),
        slices={
            f"{column}={value}": _slice(relations, slices[column], value)
            for column in config.slices
            for value in sorted({value for value in slices[column] if value is not None})
        },
    )


def _ranks(query_QD: Embeddings, candidate_CD: Embeddings, positives: Callable[[slice], Mask]) -> Indices:
    ranks_Q = np.empty(len(query_QD), dtype=np.int64)
    step = max(1, BLOCK // len(candidate_CD))
    for start in range(0, len(query_QD), step):
        rows = slice(start, start + step)
        score_QC = query_QD[rows] @ candidate_CD.T
        mask_QC = positives(rows)
        best_Q1 = np.where(mask_QC, score_QC, -np.inf).max(axis=1, keepdims=True)
        ranks_Q[rows] = ((score_QC >= best_Q1) & ~mask_QC).sum(axis=1)
    return ranks_Q


def _slice(relations: Relations, values: Sequence[str | None], value: str) -> Slice:
    """A text belongs to a value when an item that carries it does."""
    image_queries_N = np.array([own == value for own in values])
    text_queries_T = np.zeros(len(relations.texts), dtype=bool)
    for item in np.flatnonzero(image_queries_N):
        text_queries_T[relations.item_texts[item]] = True
    return Slice(text_queries_T, image_queries_N)
