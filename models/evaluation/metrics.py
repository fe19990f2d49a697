"""Retrieval quality both ways, aware of groups: finding any known positive counts."""

# N = items, T = unique texts, D = embedding, Q = queries, C = candidates, P = (query, positive) pairs, K = best,
# M = means, F = keys

from collections.abc import Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch
from scipy import sparse  # type: ignore[import-untyped]  # SciPy publishes no type information

from pairloom.models.arrays import Embeddings, Indices, Mask, Values
from pairloom.models.batches.relations import Relations, normalize_text
from pairloom.models.evaluation.bootstrap import mean_intervals, median, median_interval
from pairloom.models.evaluation.config import EvaluationConfig

Shares = npt.NDArray[np.float64]

DIRECTIONS = ("text_to_image", "image_to_text")
NDCG_DEPTH = 10
BLOCK = 1 << 24  # scores held at once


@dataclass(frozen=True)
class Slice:
    """The queries that belong to one value of a column."""

    text_queries_T: Mask
    image_queries_N: Mask


@dataclass(frozen=True)
class Answers:
    """How well the queries of one direction were answered."""

    queries_Q: Indices
    """Which texts or images were asked: those that have a positive among the candidates."""
    rank_Q: Indices
    """Of the best positive: the number of negatives before it, 0 = first."""
    average_precision_Q: Shares
    """At R, the number of the query's positives (Musgrave et al. 2020, A Metric Learning Reality Check)."""
    ndcg_Q: Shares
    """At 10, every positive of gain 1 (Järvelin and Kekäläinen 2002)."""


@dataclass(frozen=True)
class RetrievalMetrics:
    """What every query got, kept for paired comparison and for intervals."""

    k: tuple[int, ...]
    text_queries: tuple[str, ...]
    image_queries: tuple[str, ...]
    answers: Mapping[str, Answers]
    """By direction: `DIRECTIONS`, and image_to_image where an image has a positive besides itself."""
    slices: Mapping[str, Slice]
    """Keyed `column=value`."""
    probes: Mapping[str, Values] = field(default_factory=dict)
    """By `probe_<column>_<classifier>`: 1 or 0 for every item asked, the classifier's answer being right or not."""

    def as_dict(self) -> dict[str, float]:
        """By direction: `_recall@k`, `_map@r`, `_ndcg@10`, each from 0 to 1, and `_median_rank` from 1 up;
        and the accuracy of each of `probes`.

        For a slice, `/column=value` follows the name; slices without a query in a direction are left out.
        """
        metrics = {name: float(right_Q.mean()) for name, right_Q in self.probes.items()}
        for direction, answers in self.answers.items():
            columns = self._columns(answers)
            for suffix, member_Q in self._members(direction):
                for name, value_Q in columns.items():
                    metrics[f"{direction}_{name}{suffix}"] = float(value_Q[member_Q].mean())
                metrics[f"{direction}_median_rank{suffix}"] = 1 + median(answers.rank_Q[member_Q].astype(np.float64))
        return metrics

    def intervals(self, config: EvaluationConfig) -> dict[str, tuple[float, float]]:
        """Low and high end of every metric of `as_dict`, at `config.confidence`."""
        ends: dict[str, tuple[float, float]] = {}
        for direction, answers in self.answers.items():
            columns, members = self._columns(answers), self._members(direction)
            value_QC = np.stack(list(columns.values()), axis=1)
            member_QM = np.repeat(np.stack([member for _, member in members], axis=1), len(columns), axis=1)
            found_M2 = mean_intervals(
                np.tile(value_QC, len(members)), member_QM, confidence=config.confidence, seed=config.seed
            )
            names = [f"{direction}_{name}{suffix}" for suffix, _ in members for name in columns]
            ends |= {name: (float(low), float(high)) for name, (low, high) in zip(names, found_M2, strict=True)}
            for suffix, member_Q in members:
                rank_Q = 1 + answers.rank_Q[member_Q].astype(np.float64)
                ends[f"{direction}_median_rank{suffix}"] = median_interval(rank_Q, confidence=config.confidence)
        for name, right_Q in self.probes.items():
            ((low, high),) = mean_intervals(
                right_Q[:, None], np.ones((len(right_Q), 1), bool), confidence=config.confidence, seed=config.seed
            )
            ends[name] = (float(low), float(high))
        return ends

    def ranks(self, direction: str) -> Indices:
        """Ranks of one direction."""
        return self.answers[direction].rank_Q

    def _columns(self, answers: Answers) -> dict[str, Shares]:
        recalls = {f"recall@{k}": (answers.rank_Q < k).astype(np.float64) for k in self.k}
        return recalls | {"map@r": answers.average_precision_Q, f"ndcg@{NDCG_DEPTH}": answers.ndcg_Q}

    def _members(self, direction: str) -> list[tuple[str, Mask]]:
        """Name suffix and queries of everything and of each slice that has any."""
        queries_Q, members = self.answers[direction].queries_Q, []
        for name, part in self.slices.items():
            mask = part.text_queries_T if direction == "text_to_image" else part.image_queries_N
            members.append((f"/{name}", mask[queries_Q]))
        return [("", np.ones(len(queries_Q), bool)), *(each for each in members if each[1].any())]


def evaluate(
    image_ND: Embeddings,
    text_TD: Embeddings,
    relations: Relations,
    config: EvaluationConfig,
    slices: Mapping[str, Slice],
) -> RetrievalMetrics:
    """Metrics of N images and the T unique texts of `relations` (`text_TD` follows `relations.texts`).

    Ties count against the model: a negative that scores as high as a positive is ranked before it. An image that is
    asked for images is no candidate of its own, nor is any image of the same pixels: finding a copy is no merit.
    """
    if image_ND.shape[0] != len(relations) or text_TD.shape[0] != len(relations.texts) or len(relations) == 0:
        raise ValueError(
            f"evaluation has {image_ND.shape[0]} image and {text_TD.shape[0]} text embeddings for "
            f"{len(relations)} items with {len(relations.texts)} unique texts"
        )
    item_NF, text_TF, pixels_N = relations.item_keys_NF, relations.text_keys_TF, relations.pixels_N

    def other_images(rows: slice) -> sparse.csr_matrix:
        known = (item_NF[rows] @ item_NF.T).tocoo()
        # Stored zeros: neither positives nor negatives.
        known.data = (pixels_N[rows][known.row] != pixels_N[known.col]).astype(np.int8)
        return known.tocsr()

    answers = {
        "text_to_image": _answers(text_TD, image_ND, lambda rows: text_TF[rows] @ item_NF.T),
        "image_to_text": _answers(image_ND, text_TD, lambda rows: item_NF[rows] @ text_TF.T),
        "image_to_image": _answers(image_ND, image_ND, other_images),
    }
    return RetrievalMetrics(
        k=config.k,
        text_queries=relations.texts,
        image_queries=relations.item_ids,
        answers={direction: each for direction, each in answers.items() if len(each.queries_Q)},
        slices=slices,
    )


def _answers(query_QD: Embeddings, candidate_CD: Embeddings, known: Callable[[slice], sparse.csr_matrix]) -> Answers:
    """`known` gives for some queries a sparse (rows, C): positive where above 0, no candidate where a stored 0."""
    step = max(1, BLOCK // len(candidate_CD))
    blocks = []
    for start in range(0, len(query_QD), step):
        rows = slice(start, start + step)
        found = known(rows).tocoo()
        score_QC = query_QD[rows] @ candidate_CD.T
        positive = found.data > 0
        row_P, score_P = found.row[positive], score_QC[found.row, found.col][positive]
        score_QC[found.row, found.col] = -np.inf
        if len(row_P):
            blocks.append(_judge(score_QC, row_P.astype(np.int64), score_P, start))
    if not blocks:
        return Answers(np.array([], np.int64), np.array([], np.int64), np.array([]), np.array([]))
    queries, ranks, precisions, gains = zip(*blocks, strict=True)
    return Answers(np.concatenate(queries), np.concatenate(ranks), np.concatenate(precisions), np.concatenate(gains))


def _judge(
    negative_QC: Embeddings, row_P: Indices, score_P: Embeddings, start: int
) -> tuple[Indices, Indices, Shares, Shares]:
    """The columns of `Answers` for the queries of one block; P are its positives, each in the row of its query."""
    order = np.lexsort((-score_P, row_P))
    row_P, score_P = row_P[order], score_P[order]
    asked_Q, first_Q, size_Q = np.unique(row_P, return_index=True, return_counts=True)
    query_P = np.repeat(np.arange(len(asked_Q)), size_Q)
    nth_P = np.arange(len(row_P)) - first_Q[query_P]
    rank_Q = (negative_QC[asked_Q] >= score_P[first_Q][:, None]).sum(axis=1)

    # Beyond this depth a position matters to neither metric, so only the best negatives need sorting.
    depth = min(max(NDCG_DEPTH, int(size_Q.max())), negative_QC.shape[1])
    best_QK = torch.topk(torch.from_numpy(negative_QC), depth, dim=1).values.numpy()
    before_P = np.empty(len(row_P), np.int64)
    for chunk in range(0, len(row_P), max(1, BLOCK // depth)):
        part = slice(chunk, chunk + max(1, BLOCK // depth))
        before_P[part] = (best_QK[row_P[part]] >= score_P[part, None]).sum(axis=1)
    position_P = before_P + nth_P

    precision_P = np.where(position_P < size_Q[query_P], (nth_P + 1) / (position_P + 1), 0.0)
    gain_P = np.where(position_P < NDCG_DEPTH, 1 / np.log2(position_P + 2), 0.0)
    ideal = np.cumsum(1 / np.log2(np.arange(NDCG_DEPTH) + 2))
    return (
        asked_Q + start,
        rank_Q.astype(np.int64),
        np.bincount(query_P, precision_P) / size_Q,
        np.bincount(query_P, gain_P) / ideal[np.minimum(size_Q, NDCG_DEPTH) - 1],
    )


def column_slices(relations: Relations, columns: Mapping[str, Sequence[str | None]]) -> dict[str, Slice]:
    """A slice for every value of every column; `columns` holds each item's value. A text belongs where an item does."""
    return {
        f"{column}={value}": _slice(relations, np.array([own == value for own in values]))
        for column, values in columns.items()
        for value in sorted({value for value in values if value is not None})
    }


def novelty_slices(
    relations: Relations, groups: Sequence[str | None], seen_texts: AbstractSet[str], seen_groups: AbstractSet[str]
) -> dict[str, Slice]:
    """`novel_text=yes|no` (text queries) and `novel_group=yes|no` (both): what training has not shown the model.

    `groups` holds each item's group, `seen_texts` the normalised training texts. Items without a group are in neither.
    """
    novel_T = np.array([normalize_text(text) not in seen_texts for text in relations.texts], dtype=bool)
    no_image_N = np.zeros(len(relations), dtype=bool)
    grouped_N = np.array([group is not None for group in groups], dtype=bool)
    novel_N = np.array([group not in seen_groups for group in groups], dtype=bool)
    return {
        "novel_text=yes": Slice(novel_T, no_image_N),
        "novel_text=no": Slice(~novel_T, no_image_N),
        "novel_group=yes": _slice(relations, grouped_N & novel_N),
        "novel_group=no": _slice(relations, grouped_N & ~novel_N),
    }


def _slice(relations: Relations, image_queries_N: Mask) -> Slice:
    text_queries_T = np.zeros(len(relations.texts), dtype=bool)
    for item in np.flatnonzero(image_queries_N):
        text_queries_T[relations.item_texts[item]] = True
    return Slice(text_queries_T, image_queries_N)
