"""Percentile bootstrap intervals over queries (Efron 1979), for means by resampling and for medians in closed form."""

# Q = queries, M = means, R = resamples

import math

import numpy as np
import numpy.typing as npt
from scipy.stats import binom  # type: ignore[import-untyped]  # SciPy publishes no type information

from pairloom.models.arrays import Values

RESAMPLES = 1_000
BLOCK = 1 << 22  # resampled weights held at once
GRID = 2.0**-30
"""What values are rounded to multiples of: of up to eight million float64 adds them up exactly, so in any order."""


def mean_intervals(values_QM: Values, member_QM: npt.NDArray[np.bool_], *, confidence: float, seed: int) -> Values:
    """(M, 2): low and high end of each mean over its members among the same Q queries.

    All means share their resamples. A resample that draws no member of a mean says nothing about that mean.
    """
    count, means = values_QM.shape
    random = np.random.default_rng(seed)
    weighed_QM = np.hstack([np.where(member_QM, np.rint(values_QM / GRID) * GRID, 0.0), member_QM])
    step = max(1, BLOCK // count)
    drawn = []
    for start in range(0, RESAMPLES, step):
        rows = min(step, RESAMPLES - start)
        picked_RQ = random.integers(count, size=(rows, count)) + count * np.arange(rows)[:, None]
        weight_RQ = np.bincount(picked_RQ.ravel(), minlength=rows * count).reshape(rows, count).astype(np.float64)
        total_RM = weight_RQ @ weighed_QM
        with np.errstate(invalid="ignore"):
            drawn.append(total_RM[:, :means] / total_RM[:, means:])
    ends = [(1 - confidence) / 2, (1 + confidence) / 2]
    found: Values = np.nanquantile(np.concatenate(drawn), ends, axis=0).T
    return found


def median(values_Q: Values) -> float:
    """The lower median: always one of the values."""
    return float(np.sort(values_Q)[(len(values_Q) - 1) // 2])


def median_interval(values_Q: Values, *, confidence: float) -> tuple[float, float]:
    """What endless resampling of the lower median would give.

    A resample's lower median is at most the i-th smallest value exactly where at least ⌈Q/2⌉ of its Q draws are, each
    with probability i/Q.
    """
    count, ordered_Q = len(values_Q), np.sort(values_Q)
    at_most_Q = binom.sf(math.ceil(count / 2) - 1, count, np.arange(1, count + 1) / count)
    low, high = np.searchsorted(at_most_Q, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(ordered_Q[low]), float(ordered_Q[min(high, count - 1)])
