"""Neighbour lists of a whole collection, in three directions, and how they follow it from night to night."""

# N = items, D = embedding, K = neighbours, Q = queries, R = rows

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pairloom.models.arrays import Embeddings, Indices, Mask
from pairloom.models.batches.relations import Relations
from pairloom.models.mining.neighbours import Neighbours, nearest
from pairloom.models.mining.positives import KnownPositives

Digests = npt.NDArray[np.uint64]
Progress = Callable[[float], None]
Search = Callable[[str, Indices, Indices | None, Callable[[int], None] | None], Neighbours]
"""As `Searcher.__call__`: whoever has many machines has many of them search."""

DIRECTIONS = ("image_to_text", "text_to_image", "image_to_image")
_ROWS = 2048


@dataclass(frozen=True)
class NeighbourLists:
    """The nearest items of each of N items, known positives left out, with what they were computed from."""

    item_ids: tuple[str, ...]
    vectors_N: Digests
    """Digest of each item's two vectors."""
    positives_N: Digests
    """Digest of the items that each item's lists leave out."""
    by_direction: dict[str, Neighbours]
    """K neighbours an item, by direction."""


class Searcher:
    """Finds the nearest items of some of them, known positives left out."""

    def __init__(self, image_ND: Embeddings, text_ND: Embeddings, known: KnownPositives, k: int) -> None:
        self._sides = {"image": image_ND, "text": text_ND}
        self._known, self._k = known, k

    def __call__(
        self,
        direction: str,
        rows_Q: Indices,
        among_C: Indices | None = None,
        progress: Callable[[int], None] | None = None,
    ) -> Neighbours:
        """The `k` nearest of all items, or of those `among_C` alone, of the items `rows_Q`; the same to the bit however
        the rows are divided among calls. `progress` is told how many rows were finished."""
        query_ND, candidate_ND = (self._sides[side] for side in direction.split("_to_"))
        if among_C is None:
            return nearest(
                query_ND[rows_Q],
                candidate_ND,
                self._k,
                exclude=lambda own: self._known.of(rows_Q[own]),
                progress=progress,
            )
        found = nearest(
            query_ND[rows_Q],
            candidate_ND[among_C],
            self._k,
            exclude=lambda own: self._known.of(rows_Q[own])[:, among_C],
            progress=progress,
        )
        row_QK = np.where(found.indices_QK < 0, -1, among_C[found.indices_QK]).astype(np.int32)
        return Neighbours(row_QK, found.scores_QK)


def neighbour_lists(
    image_ND: Embeddings,
    text_ND: Embeddings,
    relations: Relations,
    k: int,
    *,
    old: NeighbourLists | None = None,
    progress: Progress | None = None,
    search: Search | None = None,
) -> NeighbourLists:
    """The lists of `nearest`, by direction; `text_ND` holds the mean of each item's texts.

    What of `old`, lists of the same model, still holds is carried over, so that the work is new items × all items; the
    result is the same to the bit. An item is computed anew where it or its positives changed, or where one of its
    neighbours left. `progress` is told the share that is done. `search` stands for a `Searcher` of these vectors.
    """
    known = KnownPositives(relations)
    search = search or Searcher(image_ND, text_ND, known, k)
    vectors_N = _vector_digests(image_ND, text_ND)
    before_N = _rows_before(relations.item_ids, vectors_N, old, k)
    carried_N = before_N >= 0
    identity_N = np.array([_digest(item.encode()) for item in relations.item_ids], dtype=np.uint64)
    positives_N, unchanged_N = _positive_digests(known, identity_N), np.zeros(len(relations), dtype=bool)
    if old is not None:
        among_carried_N = _positive_digests(known, np.where(carried_N, identity_N, np.uint64(0)))
        unchanged_N = carried_N & (old.positives_N[before_N] == among_carried_N)
    by_direction = {}
    for number, direction in enumerate(DIRECTIONS):
        kept, intact_N = _carried_over(direction, old, before_N, k)
        steps = None if progress is None else _share(progress, number, len(relations))
        by_direction[direction] = renew(kept, direction, intact_N & unchanged_N, ~carried_N, search, progress=steps)
    return NeighbourLists(relations.item_ids, vectors_N, positives_N, by_direction)


def renew(
    kept: Neighbours,
    direction: str,
    intact_N: Mask,
    fresh_N: Mask,
    search: Search,
    *,
    progress: Callable[[int], None] | None = None,
) -> Neighbours:
    """What a search gives for all items, from the rows of `kept` that are intact but for the fresh candidates."""
    k = kept.indices_QK.shape[1]
    intact, fresh, stale = np.flatnonzero(intact_N), np.flatnonzero(fresh_N), np.flatnonzero(~intact_N)
    indices_NK, scores_NK = kept.indices_QK.copy(), kept.scores_QK.copy()
    if len(intact) and len(fresh):
        late = search(direction, intact, fresh, None)
        merged = merge(Neighbours(indices_NK[intact], scores_NK[intact]), late, k)
        indices_NK[intact], scores_NK[intact] = merged.indices_QK, merged.scores_QK
    if progress is not None:
        progress(len(intact))
    if len(stale):
        found = search(direction, stale, None, progress)
        indices_NK[stale], scores_NK[stale] = found.indices_QK, found.scores_QK
    return Neighbours(indices_NK, scores_NK)


def merge(old: Neighbours, new: Neighbours, k: int) -> Neighbours:
    """The `k` nearest of two lists of each query that share no candidate."""
    scores = np.concatenate([old.scores_QK, new.scores_QK], axis=1)
    indices = np.concatenate([old.indices_QK, new.indices_QK], axis=1)
    order_QK = np.lexsort((indices, -scores), axis=1)[:, :k]
    return Neighbours(np.take_along_axis(indices, order_QK, axis=1), np.take_along_axis(scores, order_QK, axis=1))


def _rows_before(item_ids: Sequence[str], vectors_N: Digests, old: NeighbourLists | None, k: int) -> Indices:
    """The row that each item had in `old` with the same vectors, -1 for none (N,)."""
    nowhere_N = np.full(len(item_ids), -1, dtype=np.int64)
    if old is None or not len(old.item_ids) or old.by_direction[DIRECTIONS[0]].indices_QK.shape[1] != k:
        return nowhere_N
    row = {item: number for number, item in enumerate(old.item_ids)}
    before_N = np.array([row.get(item, -1) for item in item_ids], dtype=np.int64)
    before_N[old.vectors_N[before_N] != vectors_N] = -1
    # Of equal scores the first items are kept: lists of items in another order may have kept others.
    ordered = bool((np.diff(before_N[before_N >= 0]) > 0).all())
    return before_N if ordered else nowhere_N


def _carried_over(direction: str, old: NeighbourLists | None, before_N: Indices, k: int) -> tuple[Neighbours, Mask]:
    """The old lists in today's row numbers, and which of them lost no neighbour."""
    if old is None or not (before_N >= 0).any():
        empty = Neighbours(
            np.full((len(before_N), k), -1, dtype=np.int32), np.full((len(before_N), k), -np.inf, dtype=np.float32)
        )
        return empty, np.zeros(len(before_N), dtype=bool)
    lists = old.by_direction[direction]
    now = np.full(len(old.item_ids) + 1, -1, dtype=np.int32)  # the last stands for -1, no neighbour
    now[before_N[before_N >= 0]] = np.flatnonzero(before_N >= 0)
    was_NK = lists.indices_QK[before_N]
    is_NK = now[was_NK]
    whole_N: Mask = ((was_NK >= 0) == (is_NK >= 0)).all(axis=1)
    return Neighbours(is_NK, lists.scores_QK[before_N]), whole_N


def _vector_digests(image_ND: Embeddings, text_ND: Embeddings) -> Digests:
    pairs = zip(image_ND, text_ND, strict=True)
    return np.array([_digest(image_D.tobytes() + text_D.tobytes()) for image_D, text_D in pairs], dtype=np.uint64)


def _positive_digests(known: KnownPositives, identity_N: Digests) -> Digests:
    """The sum of the identities of each item's known positives (N,)."""
    digest_N = np.zeros(len(identity_N), dtype=np.uint64)
    for start in range(0, len(identity_N), _ROWS):
        positive_RN = known.of(np.arange(start, min(start + _ROWS, len(identity_N))))
        # Every item is a positive of its own, so that no row is empty.
        digest_N[start : start + _ROWS] = np.add.reduceat(identity_N[positive_RN.indices], positive_RN.indptr[:-1])
    return digest_N


def _digest(content: bytes) -> int:
    return int.from_bytes(hashlib.blake2b(content, digest_size=8).digest())


def _share(progress: Progress, number: int, count: int) -> Callable[[int], None]:
    """What takes counts of finished rows of one direction and passes on the share of all."""
    done = 0

    def advance(rows: int) -> None:
        nonlocal done
        done += rows
        progress((number + done / count) / len(DIRECTIONS))

    return advance
