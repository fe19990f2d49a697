"""Similarity of embeddings, and how nearest-neighbour search answers maximum inner product exactly."""

# Q = queries, N = items, D = dimensions

from collections.abc import Callable
from typing import Literal

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]

TIE = 2.0**-16
"""Similarities of embeddings that are closer than this are told apart by nothing but the order of summation, which
differs between processors, batches and places in a batch."""

Metric = Literal["cosine", "inner_product", "euclidean"]


def inner_product(query_QD: Floats, item_ND: Floats) -> Doubles:
    """(Q, N): the sum of products; larger is more similar, and longer items win."""
    product_QN: Doubles = query_QD.astype(np.float64) @ item_ND.astype(np.float64).T
    return product_QN


def cosine(query_QD: Floats, item_ND: Floats) -> Doubles:
    """(Q, N) from -1 to 1: the inner product of the directions; 0 where one side is the zero vector."""
    return inner_product(_directions(query_QD), _directions(item_ND))


def euclidean(query_QD: Floats, item_ND: Floats) -> Doubles:
    """(Q, N): distances; smaller is more similar. Of normalised vectors √(2 - 2 cosine): the same ranking."""
    # Differences, not |q|² + |x|² - 2 q·x, which loses the small distances; a query at a time for the memory's sake.
    wide_ND = item_ND.astype(np.float64)
    distances = [np.linalg.norm(wide_ND - query_D, axis=1) for query_D in query_QD]
    return np.stack(distances) if distances else np.empty((0, len(item_ND)))


MEASURES: dict[Metric, Callable[[Floats, Floats], Doubles]] = {
    "cosine": cosine,
    "inner_product": inner_product,
    "euclidean": euclidean,
}


def neighbour_items(item_ND: Floats) -> Floats:
    """Unit vectors (N, D + 1) among which the nearest of a query are the items of largest inner product with it.

    Each is (x, √(M² - |x|²)) / M, where M is the length of the longest item (Bachrach et al. 2014, Speeding Up the Xbox
    Recommender System Using a Euclidean Transformation for Inner-Product Spaces). As all have one length, the distance
    from a query of `neighbour_queries` falls exactly as q·x grows, and the cosine is q·x / (|q| M). Exact up to the
    rounding of float32, about 1e-7 |q| M.
    """
    square_N = (item_ND.astype(np.float64) ** 2).sum(axis=1)
    longest = float(np.sqrt(square_N.max(initial=0.0))) or 1.0
    missing_N = np.sqrt(np.maximum(longest**2 - square_N, 0.0))
    return np.concatenate([item_ND / longest, missing_N[:, None] / longest], axis=1, dtype=np.float32)


def neighbour_queries(query_QD: Floats) -> Floats:
    """Queries (Q, D + 1) to ask `neighbour_items` with: (q, 0) / |q|. A query's length ranks nothing."""
    return np.pad(_directions(query_QD), ((0, 0), (0, 1))).astype(np.float32)


def _directions(vector_ND: Floats) -> Floats:
    wide_ND = vector_ND.astype(np.float64)
    length_N1 = np.linalg.norm(wide_ND, axis=1, keepdims=True)
    unit_ND: Floats = np.divide(wide_ND, length_N1, out=np.zeros_like(wide_ND), where=length_N1 > 0)
    return unit_ND
