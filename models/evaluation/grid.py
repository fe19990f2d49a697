"""Embeddings on a grid, on which sums of their products are exact: the same in any order and on any processor."""

# N = items, D = embedding

import numpy as np

from pairloom.models.arrays import Embeddings, Values

# A power of two, as `TIE` is: with them no sum or difference of scores, nor its share of a tolerance, is ever rounded.
GRID = 2.0**-24
"""What embeddings are rounded to multiples of: the distance of neighbouring float32 numbers from 0.5 to 1."""


def on_grid(embedding_ND: Embeddings) -> Values:
    """The embeddings rounded to `GRID`: for norms up to 4 all sums of their products are exact."""
    exact_ND = embedding_ND.astype(np.float64)
    exact_ND /= GRID
    np.rint(exact_ND, out=exact_ND)
    exact_ND *= GRID
    return exact_ND
