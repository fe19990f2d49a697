"""Hubs: images that are near many texts and come up for all of them; how near, and scores that take it off.

One side of CSLS (Conneau et al. 2018, Word Translation Without Parallel Data): texts are ranked by
2 · cosine - hubness, where an image's hubness is its mean cosine to the `NEIGHBOURS` nearest texts of the training.
"""

# N = images, T = texts, D = embedding

import numpy as np
import numpy.typing as npt

from pairloom.models.arrays import Embeddings, Scores, Values
from pairloom.models.evaluation.grid import on_grid

NEIGHBOURS = 10
BLOCK = 1 << 22
"""Scores held at once."""


def hubness(image_ND: Embeddings, text_TD: Embeddings) -> Scores:
    """(N,): the mean cosine of each image to its nearest texts; of all of them where there are fewer than `NEIGHBOURS`.

    A function of the image's own embedding and the texts': which images come with it has no influence, to the last bit.
    """
    text_DT, kept = on_grid(text_TD).T, min(NEIGHBOURS, len(text_TD))
    step = max(1, BLOCK // max(1, len(text_TD)))
    found_N = np.empty(len(image_ND), np.float32)
    for start in range(0, len(image_ND), step):
        score_NT = on_grid(image_ND[start : start + step]) @ text_DT
        nearest_NK = np.partition(score_NT, -kept, axis=1)[:, -kept:]
        found_N[start : start + step] = nearest_NK.sum(axis=1) / kept
    return found_N


def corrected(score_N: Values, hubness_N: npt.NDArray[np.floating]) -> Values:
    """(N,): what the images that one text is this near to are ranked by."""
    return 2 * score_N - hubness_N.astype(np.float64)
