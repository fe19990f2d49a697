"""Retrieval quality both ways, aware of groups: finding any known positive counts."""

# N = items, T = unique texts, D = embedding, Q = queries, C = candidates, R = values of k, M = means, F = keys

import math
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field

import numpy as np
from scipy import sparse  # type: ignore[import-untyped]  # SciPy publishes no type information
from scipy.stats import hypergeom  # type: ignore[import-untyped]  # as above

from pairloom.models.arrays import Embeddings, Indices, Mask, Scores, Values
from pairloom.models.batches.relations import Relations, normalize_text
from pairloom.models.evaluation.bootstrap import mean_intervals, median, median_interval
from pairloom.models.evaluation.config import CORRECTED, NDCG_DEPTH, EvaluationConfig
from pairloom.models.evaluation.grid import on_grid
from pairloom.models.evaluation.ranking import Answers, answered


@dataclass(frozen=True)
class Slice:
    """The queries that belong to one value of a column."""

    text_queries_T: Mask
    image_queries_N: Mask


@dataclass(frozen=True)
class RetrievalMetrics:
    """What every query got, kept for paired comparison and for intervals."""

    k: tuple[int, ...]
    text_queries: tuple[str, ...]
    image_queries: tuple[str, ...]
    answers: Mapping[str, Answers]
    """By direction: `DIRECTIONS`, and image_to_image where an image has a positive besides itself; `CORRECTED` beside
    them where the images' hubness is known."""
    slices: Mapping[str, Slice]
    """Keyed `column=value`."""
    probes: Mapping[str, Values] = field(default_factory=dict)
    """By `probe_<column>_<classifier>`: 1 or 0 for every item asked, the classifier's answer being right or not."""

    def as_dict(self) -> dict[str, float]:
        """By direction: `_recall@k`, `_map@r`, `_ndcg@10`, each from 0 to 1, and `_median_rank` from 1 up;
        and the accuracy of each of `probes`. Of `CORRECTED`, recall alone.

        For a slice, `/column=value` follows the name; slices without a query in a direction are left out.
        """
        metrics = {name: _mean(right_Q) for name, right_Q in self.probes.items()}
        for direction, answers in self.answers.items():
            columns = self._columns(direction, answers)
            for suffix, member_Q in self._members(direction):
                for name, value_Q in columns.items():
                    metrics[f"{direction}_{name}{suffix}"] = _mean(value_Q[member_Q])
                if direction != CORRECTED:
                    metrics[f"{direction}_median_rank{suffix}"] = 1 + median(answers.rank_Q[member_Q])
        return metrics

    def intervals(self, config: EvaluationConfig) -> dict[str, tuple[float, float]]:
        """Low and high end of every metric of `as_dict`, at `config.confidence`."""
        ends: dict[str, tuple[float, float]] = {}
        for direction, answers in self.answers.items():
            columns, members = self._columns(direction, answers), self._members(direction)
            value_QC = np.stack(list(columns.values()), axis=1)
            member_QM = np.repeat(np.stack([member for _, member in members], axis=1), len(columns), axis=1)
            found_M2 = mean_intervals(
                np.tile(value_QC, len(members)), member_QM, confidence=config.confidence, seed=config.seed
            )
            names = [f"{direction}_{name}{suffix}" for suffix, _ in members for name in columns]
            ends |= {name: (float(low), float(high)) for name, (low, high) in zip(names, found_M2, strict=True)}
            for suffix, member_Q in members if direction != CORRECTED else ():
                found = median_interval(1 + answers.rank_Q[member_Q], confidence=config.confidence)
                ends[f"{direction}_median_rank{suffix}"] = found
        for name, right_Q in self.probes.items():
            ((low, high),) = mean_intervals(
                right_Q[:, None], np.ones((len(right_Q), 1), bool), confidence=config.confidence, seed=config.seed
            )
            ends[name] = (float(low), float(high))
        return ends

    def recall(self, direction: str, k: int) -> Values:
        """(Q,): what each query of one direction adds to recall@k."""
        recall_Q: Values = self.answers[direction].recall_QR[:, self.k.index(k)]
        return recall_Q

    def chance(self, k: int) -> Values:
        """(Q,): what each text would add to recall@k if the images came in an order by chance."""
        images, positives_Q = len(self.image_queries), self.answers["text_to_image"].positives_Q
        return 1 - hypergeom.pmf(0, images, positives_Q, min(k, images))  # type: ignore[no-any-return]  # as above

    @property
    def headline_k(self) -> int:
        """10, or the largest k that is measured: recall at it both ways is what the gate compares."""
        return 10 if 10 in self.k else max(self.k)

    def _columns(self, direction: str, answers: Answers) -> dict[str, Values]:
        recalls = {f"recall@{k}": recall_Q for k, recall_Q in zip(self.k, answers.recall_QR.T, strict=True)}
        if direction == CORRECTED:
            return recalls
        return recalls | {"map@r": answers.average_precision_Q, f"ndcg@{NDCG_DEPTH}": answers.ndcg_Q}

    def _members(self, direction: str) -> list[tuple[str, Mask]]:
        """Name suffix and queries of everything and of each slice that has any."""
        queries_Q, members = self.answers[direction].queries_Q, []
        for name, part in self.slices.items():
            mask = part.text_queries_T if direction in ("text_to_image", CORRECTED) else part.image_queries_N
            members.append((f"/{name}", mask[queries_Q]))
        return [("", np.ones(len(queries_Q), bool)), *(each for each in members if each[1].any())]


def evaluate(
    image_ND: Embeddings,
    text_TD: Embeddings,
    relations: Relations,
    config: EvaluationConfig,
    slices: Mapping[str, Slice],
    hubness_N: Scores | None = None,
) -> RetrievalMetrics:
    """Metrics of N images and the T unique texts of `relations` (`text_TD` follows `relations.texts`).

    `hubness_N` is taken off what texts find, beside the plain order, where it is given.

    Ties count against the model (`ranking`). An image that is asked for images is no candidate of its own, nor
    is any image of the same pixels: finding a copy is no merit. Raises ValueError where the embeddings are not as many
    as the items and texts, or not all finite.
    """
    if image_ND.shape[0] != len(relations) or text_TD.shape[0] != len(relations.texts) or len(relations) == 0:
        raise ValueError(
            f"evaluation has {image_ND.shape[0]} image and {text_TD.shape[0]} text embeddings for "
            f"{len(relations)} items with {len(relations.texts)} unique texts"
        )
    images, texts = (int((~np.isfinite(each).all(axis=1)).sum()) for each in (image_ND, text_TD))
    if images or texts:
        raise ValueError(
            f"{images} of {len(image_ND)} image embeddings and {texts} of {len(text_TD)} text embeddings are not "
            "finite, so nothing can be said of the model"
        )
    item_NF, text_TF, pixels_N = relations.item_keys_NF, relations.text_keys_TF, relations.pixels_N

    def other_images(rows: Indices) -> sparse.csr_matrix:
        known = (item_NF[rows] @ item_NF.T).tocoo()
        # Stored zeros: neither positives nor negatives.
        known.data = (pixels_N[rows][known.row] != pixels_N[known.col]).astype(np.int8)
        return known.tocsr()

    image, text = on_grid(image_ND), on_grid(text_TD)
    images_N, texts_T = _order(relations.item_ids), _order([normalize_text(each) for each in relations.texts])
    answers = {
        "text_to_image": answered(text, image, texts_T, lambda rows: text_TF[rows] @ item_NF.T, config.k),
        "image_to_text": answered(image, text, images_N, lambda rows: item_NF[rows] @ text_TF.T, config.k),
        "image_to_image": answered(image, image, images_N, other_images, config.k),
    }
    if hubness_N is not None:
        # One more dimension, on which texts are 1: the score is the cosine less half the hubness.
        ranked = (
            np.hstack([image, on_grid(hubness_N[:, None] / np.float32(-2))]),
            np.hstack([text, np.ones((len(text), 1))]),
        )
        answers[CORRECTED] = answered(*ranked[::-1], texts_T, lambda rows: text_TF[rows] @ item_NF.T, config.k)
    return RetrievalMetrics(
        k=config.k,
        text_queries=relations.texts,
        image_queries=relations.item_ids,
        answers={direction: each for direction, each in answers.items() if len(each.queries_Q)},
        slices=slices,
    )


def _order(names: Sequence[str]) -> Indices:
    return np.array(sorted(range(len(names)), key=names.__getitem__), dtype=np.int64)


def _mean(value_Q: Values) -> float:
    """Rounded once, so that it is the same in any order."""
    return math.fsum(value_Q) / len(value_Q)


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
    text_queries_T[relations.item_texts.take(np.flatnonzero(image_queries_N)).values_V] = True
    return Slice(text_queries_T, image_queries_N)
