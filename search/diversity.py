"""Hits that differ from one another: maximal marginal relevance (Carbonell and Goldstein 1998)."""

# N = candidates, D = embedding

import numpy as np
import numpy.typing as npt

from pairloom.storage.table.index import Floats

POOL = 200
"""Nearest rows among which diversity chooses; what comes after them stays in its order."""


def diversified(score_N: npt.NDArray[np.float64], vector_ND: Floats, diversity: float) -> npt.NDArray[np.int64]:
    """All N places in the order in which they are chosen: each time the best of what is left.

    Best is what has the largest (1 - diversity) · relevance - diversity · similarity to the most similar one chosen.
    Both are scaled to 0…1 over the candidates, since a text and an image are never as near as two images. 0 leaves the
    order of the scores, 1 looks at nothing but the differences, after the first. Of equals the earlier one is taken.
    """
    relevance_N = _scaled(score_N.astype(np.float64), score_N.min(initial=np.inf), score_N.max(initial=-np.inf))
    alike_NN = vector_ND.astype(np.float64) @ vector_ND.T.astype(np.float64)
    others = alike_NN[~np.eye(len(alike_NN), dtype=bool)]
    alike_NN = _scaled(alike_NN, others.min(initial=np.inf), others.max(initial=-np.inf))
    left_N, nearest_N = np.ones(len(score_N), bool), np.zeros(len(score_N))
    order = list[int]()
    for _ in range(len(score_N)):
        # Rounded, so that no last bit decides between equals.
        worth_N = np.round((1 - diversity) * relevance_N - diversity * nearest_N, 9)
        chosen = int(np.argmax(np.where(left_N, worth_N if order else relevance_N, -np.inf)))
        order.append(chosen)
        left_N[chosen] = False
        nearest_N = np.maximum(nearest_N, alike_NN[chosen])
    return np.array(order, np.int64)


def _scaled(values: npt.NDArray[np.float64], low: float, high: float) -> npt.NDArray[np.float64]:
    return np.clip((values - low) / (high - low), 0, 1) if high > low else np.zeros_like(values)
