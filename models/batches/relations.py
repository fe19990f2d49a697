"""Which items and texts are known positives of one another: by group, text, pixels, or because a pair says so.

Every item and every text gets a set of integer keys, and two things are positives when their sets meet. Being positive
isn't handed on: a shop's "no photo" picture under many texts doesn't merge the items that carry those texts.
"""

# N = items, T = unique texts, F = keys, R = rows, C = columns, M = pairs

import unicodedata
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from scipy import sparse  # type: ignore[import-untyped]  # SciPy publishes no type information

from pairloom.models.arrays import Indices, Mask, Weights
from pairloom.models.ragged import Ragged

KINDS = ("group", "text", "pixels", "near_duplicate", "given")


def normalize_text(text: str) -> str:
    """The form in which two texts are compared: NFKC, case folded, white space collapsed."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


@dataclass(frozen=True)
class PositivePairs:
    """Ordered pairs of item indices, with the relation that makes them positives (an index into `KINDS`)."""

    anchors_M: Indices
    positives_M: Indices
    kinds_M: npt.NDArray[np.int8]
    weights_M: Weights
    """1, unless a given pair weighs differently."""


@dataclass(frozen=True)
class Edges:
    """Positive pairs of items beyond what they share, in either order; the same pair may come several times."""

    firsts_M: Indices
    seconds_M: Indices
    kinds_M: npt.NDArray[np.int8]
    """Indices into `KINDS`."""
    weights_M: Weights
    """Above 0; the largest counts where a pair comes several times."""


@dataclass(frozen=True)
class Relations:
    """Known positives among N items and their T unique texts."""

    item_ids: tuple[str, ...]
    texts: tuple[str, ...]
    """The T unique texts, in order of appearance. Of a text's spellings the one that stands last in the order of code
    points, so that it doesn't depend on the order of items: small letters rather than capitals."""
    item_texts: Ragged
    """For each item, the indices of its own texts in `texts`, best first."""
    group_N: Indices
    """Group of each item as an integer; items without a group have one of their own."""
    pixels_N: Indices
    """Pixel hash of each item as an integer; items without one have one of their own."""
    item_keys_NF: sparse.csr_matrix
    """Keys of each item: its group, its pixels, its texts."""
    text_keys_TF: sparse.csr_matrix
    """Keys of each text: itself, and the groups and pixels of the items that carry it."""
    edges: Edges | None = None
    """Pairs added by `with_edges`."""
    edge_weights_NN: sparse.csr_matrix | None = None
    """Weight of each added pair, both ways round."""
    edge_weights_NT: sparse.csr_matrix | None = None
    """For each item, the texts of the items it is paired with, with the pair's weight."""

    @classmethod
    def build(
        cls,
        item_ids: Sequence[str],
        groups: Sequence[str | None],
        texts: Sequence[Sequence[str]],
        pixel_hashes: Sequence[str | None],
    ) -> "Relations":
        """Relations of N items; a group or pixel hash of None relates to nothing else."""
        if not len(item_ids) == len(groups) == len(texts) == len(pixel_hashes):
            raise ValueError(
                f"item_ids, groups, texts and pixel_hashes differ in length: "
                f"{len(item_ids)}, {len(groups)}, {len(texts)}, {len(pixel_hashes)}"
            )
        spelling: dict[str, str] = {}
        number: dict[str, int] = {}
        carried: list[int] = []
        counts_N = np.zeros(len(texts), np.int64)
        for item, own in enumerate(texts):
            keys = dict[str, None]()
            for text in own:
                key = normalize_text(text)
                keys[key] = None
                spelling[key] = max(spelling.get(key, text), text)
            carried += [number.setdefault(key, len(number)) for key in keys]
            counts_N[item] = len(keys)
        own_texts = Ragged.cut(np.array(carried, np.int64), counts_N)
        del carried
        group_N, pixels_N = _integers(groups), _integers(pixel_hashes)
        item_keys_NF, text_keys_TF = _keys(group_N, pixels_N, own_texts, len(number))
        return cls(tuple(item_ids), tuple(spelling.values()), own_texts, group_N, pixels_N, item_keys_NF, text_keys_TF)

    def classes(self) -> Indices:
        """A class an item (N,).

        Items of a group are of one class; an item that is alone in its group is of one with those of its first text.
        """
        alone_N = np.bincount(self.group_N)[self.group_N] == 1
        own = self.item_texts
        first_N = -1 - np.arange(len(self))
        first_N[own.counts > 0] = own.values_V[own.starts[own.counts > 0]]
        return np.where(alone_N, first_N + 2 * len(self), self.group_N)

    def with_edges(self, edges: Edges) -> "Relations":
        """These relations and the pairs of `edges`, in place of any added before.

        A text of either item becomes a target of the other's image, with the pair's weight.
        """
        firsts_M, seconds_M = edges.firsts_M, edges.seconds_M
        if (edges.weights_M <= 0).any() or (firsts_M == seconds_M).any():
            raise ValueError("a pair needs two different items and a weight above 0")
        rows = np.concatenate([firsts_M, seconds_M])
        others = np.concatenate([seconds_M, firsts_M])
        weights = np.tile(edges.weights_M, 2)
        carried = self.item_texts.take(others)
        return replace(
            self,
            edges=edges,
            edge_weights_NN=_largest(rows, others, weights, (len(self), len(self))),
            edge_weights_NT=_largest(
                rows[carried.owners], carried.values_V, weights[carried.owners], (len(self), len(self.texts))
            ),
        )

    def __len__(self) -> int:
        return len(self.item_ids)

    def positive_mask(self, rows_R: Indices, columns_C: Indices) -> Mask:
        """(R, C): is item r a positive of item c? An item is one of itself."""
        mask_RC = _dense(_shared(self.item_keys_NF[rows_R], self.item_keys_NF[columns_C]))
        if self.edge_weights_NN is not None:
            mask_RC |= _dense(self.edge_weights_NN[rows_R][:, columns_C])
        return mask_RC

    def are_positives(self, firsts_M: Indices, seconds_M: Indices) -> Mask:
        """(M,): are the items of each pair positives?"""
        shared_M = self.item_keys_NF[firsts_M].multiply(self.item_keys_NF[seconds_M]).sum(axis=1)
        found_M: Mask = np.asarray(shared_M).ravel() > 0
        if self.edge_weights_NN is not None and len(firsts_M):
            found_M |= np.asarray(self.edge_weights_NN[firsts_M, seconds_M]).ravel() > 0
        return found_M

    def text_mask(self, rows_R: Indices, texts_C: Indices) -> Mask:
        """(R, C): is text c (an index into `texts`) a positive of the image of item r?

        It is where the item carries the text, or shares group or pixels or is paired with an item that does.
        """
        return _dense(self.text_targets(rows_R, texts_C))

    def text_targets(self, rows_R: Indices, texts_C: Indices) -> sparse.csr_matrix:
        """Float32 (R, C): how much text c weighs among the positives of the image of item r; nothing stored for none.

        The sparse form of `text_mask`: 1, or an added pair's weight where that is larger or all there is.
        """
        shared_RC = _shared(self.item_keys_NF[rows_R], self.text_keys_TF[texts_C]).astype(np.float32)
        shared_RC.data[:] = 1
        if self.edge_weights_NT is not None:
            shared_RC = shared_RC.maximum(self.edge_weights_NT[rows_R][:, texts_C])
        shared_RC.sort_indices()
        return shared_RC

    def item_targets(self, rows_R: Indices) -> sparse.csr_matrix:
        """Float32 (R, R): how much item c weighs among the positives of item r, each item its own with 1.

        The sparse form of `positive_mask`: 1, or an added pair's weight where that is larger or all there is.
        """
        shared_RR = (self.item_keys_NF[rows_R] @ self.item_keys_NF[rows_R].T).astype(np.float32)
        shared_RR.data[:] = 1
        if self.edge_weights_NN is not None:
            shared_RR = shared_RR.maximum(self.edge_weights_NN[rows_R][:, rows_R])
        shared_RR.sort_indices()
        return shared_RR

    def positive_pairs(self, *, max_per_anchor: int) -> PositivePairs:
        """Pairs (anchor, positive), sorted, without self pairs, at most `max_per_anchor` of each kind an anchor.

        Pairs added by `with_edges` are all listed. A pair that is related in several ways is listed once, under the
        first of `KINDS`.
        """
        items_N = np.arange(len(self))
        by_kind = [
            (self.group_N, items_N),
            (self.item_texts.values_V, self.item_texts.owners),
            (self.pixels_N, items_N),
        ]
        parts = [_neighbours(keys, items, max_per_anchor) for keys, items in by_kind]
        kinds = np.repeat(np.arange(len(parts), dtype=np.int8), [len(anchor) for anchor, _ in parts])
        if self.edges is not None:
            parts += [(self.edges.firsts_M, self.edges.seconds_M), (self.edges.seconds_M, self.edges.firsts_M)]
            kinds = np.concatenate([kinds, self.edges.kinds_M, self.edges.kinds_M])
        # As one number each, which are sorted several times as fast as rows of three.
        key_P, start = np.empty(len(kinds), np.int64), 0
        for anchor, positive in parts:
            key_P[start : start + len(anchor)] = anchor * len(self) + positive
            start += len(anchor)
        key_P *= len(KINDS)
        key_P += kinds
        key_P.sort()
        first = np.ones(len(key_P), dtype=bool)
        first[1:] = np.diff(key_P // len(KINDS)) != 0
        pair_P, kinds = np.divmod(key_P[first], len(KINDS))
        anchors, positives = np.divmod(pair_P, len(self))
        kinds = kinds.astype(np.int8)
        return PositivePairs(anchors, positives, kinds, self._weights(anchors, positives, kinds))

    def _weights(self, anchors_M: Indices, positives_M: Indices, kinds_M: npt.NDArray[np.int8]) -> Weights:
        """1, the weight of the added pair where that is larger, or that weight alone where nothing else relates."""
        shared_M = np.where(kinds_M < KINDS.index("near_duplicate"), 1, 0).astype(np.float32)
        if self.edge_weights_NN is None or not len(anchors_M):
            return shared_M
        added_M = np.asarray(self.edge_weights_NN[anchors_M, positives_M], dtype=np.float32).ravel()
        return np.maximum(shared_M, added_M)


def _integers(values: Sequence[Hashable]) -> Indices:
    """Equal values → equal integers; every None gets one of its own."""
    seen: dict[Hashable, int] = {}
    # A fresh object is equal to nothing else.
    return np.array([seen.setdefault(object() if v is None else v, len(seen)) for v in values], dtype=np.int64)


def _keys(
    group_N: Indices, pixels_N: Indices, item_texts: Ragged, text_count: int
) -> tuple[sparse.csr_matrix, sparse.csr_matrix]:
    """Item × key and text × key incidence; columns are groups, then pixels, then texts."""
    items_N = np.arange(len(group_N))
    carriers, carried = item_texts.owners, item_texts.values_V
    pixels_N = pixels_N + len(items_N)
    first_text = 2 * len(items_N)
    width = first_text + text_count

    def incidence(rows: Indices, columns: Indices, height: int) -> sparse.csr_matrix:
        matrix = sparse.csr_matrix((np.ones(len(rows), dtype=np.int32), (rows, columns)), shape=(height, width))
        matrix.data[:] = 1
        return matrix

    item_keys_NF = incidence(
        np.concatenate([items_N, items_N, carriers]),
        np.concatenate([group_N, pixels_N, carried + first_text]),
        len(items_N),
    )
    texts_T = np.arange(text_count)
    text_keys_TF = incidence(
        np.concatenate([texts_T, carried, carried]),
        np.concatenate([texts_T + first_text, group_N[carriers], pixels_N[carriers]]),
        text_count,
    )
    return item_keys_NF, text_keys_TF


def _largest(rows: Indices, columns: Indices, weights: Weights, shape: tuple[int, int]) -> sparse.csr_matrix:
    """A float32 matrix of weights, of which the largest stands where several meet."""
    order = np.lexsort((-weights, columns, rows))
    rows, columns, weights = rows[order], columns[order], weights[order]
    first = np.ones(len(order), dtype=bool)
    first[1:] = (np.diff(rows) != 0) | (np.diff(columns) != 0)
    return sparse.csr_matrix((weights[first], (rows[first], columns[first])), shape=shape, dtype=np.float32)


def _shared(row_keys_RF: sparse.csr_matrix, column_keys_CF: sparse.csr_matrix) -> sparse.csr_matrix:
    """(R, C): how many keys a row and a column share."""
    if len(row_keys_RF.indices) < len(column_keys_CF.indices):
        # Turning a matrix round is most of the work: turn the smaller one.
        return (column_keys_CF @ row_keys_RF.T).T.tocsr()
    return row_keys_RF @ column_keys_CF.T


def _dense(product: sparse.csr_matrix) -> Mask:
    mask: Mask = (product > 0).toarray()
    return mask


def _neighbours(keys: Indices, items: Indices, limit: int) -> tuple[Indices, Indices]:
    """Pairs of distinct items under one key: each with the next `limit` of its key, going round."""
    order = np.lexsort((items, keys))
    keys, items = keys[order], items[order]
    _, starts, sizes = np.unique(keys, return_index=True, return_counts=True)
    start, size = np.repeat(starts, sizes), np.repeat(sizes, sizes)
    position = np.arange(len(keys)) - start
    anchors, positives = [], []
    for step in range(1, min(limit, int(sizes.max(initial=1)) - 1) + 1):
        wide = size > step
        anchors.append(items[wide])
        positives.append(items[(start + (position + step) % size)[wide]])
    empty = np.array([], dtype=np.int64)
    return np.concatenate([*anchors, empty]), np.concatenate([*positives, empty])
