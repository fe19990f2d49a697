"""The few directions in which classes differ, for how far their members are apart: linear discriminant analysis."""

# N = items, F = features, C = classes, D = dimensions, M = moved copies

import numpy as np
from scipy import linalg  # type: ignore[import-untyped]  # SciPy publishes no type information

from pairloom.models.arrays import Features, Indices, Values
from pairloom.models.closed_form.discriminant import LinearMap

EVENNESS = 1.0
"""Where classes tell little of the scatter within, all items stand in for them, the mean variance times this added to
each feature's."""
MOVED = 0.7
"""Share of what moved copies say of the scatter within, beside what all items do."""


def class_space(
    feature_NF: Features,
    class_N: Indices,
    dimensions: int,
    *,
    shrinkage: float,
    apart_MF: Features | None = None,
) -> LinearMap:
    """At most `dimensions` directions (F, D) that hold the class means, where the scatter within classes is a ball.

    Regularised linear discriminant analysis (Fisher 1936; Friedman 1989), all directions weighing the same; the most
    telling ones first. `shrinkage`, from 0 to 1, is how far the scatter within classes is drawn to a ball. Where there
    are fewer pairs of one class than features, the scatter of all items stands in for it instead, the more the fewer;
    without any pair what is left are principal components, scaled. With `apart_MF`, how far features of one thing come
    apart where its picture is moved, that and the scatter of all items say as much as a pair a feature would.
    """
    _, class_N, size_C = np.unique(class_N, return_inverse=True, return_counts=True)
    mean_F = feature_NF.mean(axis=0, dtype=np.float64)
    mean_CF = np.zeros((len(size_C), feature_NF.shape[1]))
    np.add.at(mean_CF, class_N, feature_NF)
    mean_CF /= size_C[:, None]
    # With within = L L', x → L⁻¹ x makes it a ball.
    moved_FF = None if apart_MF is None or not len(apart_MF) else _evened(apart_MF.T.astype(np.float64) @ apart_MF)
    lower_FF = linalg.cholesky(_within(feature_NF, class_N, mean_CF, mean_F, shrinkage, moved_FF), lower=True)
    round_CF = linalg.solve_triangular(lower_FF, (mean_CF - mean_F).T, lower=True).T
    strength_F, axes_FF = linalg.eigh(round_CF.T @ round_CF)
    kept_F = strength_F > 1e-12 * max(strength_F[-1], np.finfo(np.float64).tiny)
    axes_FD = axes_FF[:, kept_F][:, ::-1][:, :dimensions]
    return LinearMap(mean_F, linalg.solve_triangular(lower_FF, axes_FD, lower=True, trans="T"))


def _within(
    feature_NF: Features,
    class_N: Indices,
    mean_CF: Values,
    mean_F: Values,
    shrinkage: float,
    moved_FF: Values | None,
) -> Values:
    """(F, F): the scatter within classes, regularised."""
    several_N = np.bincount(class_N)[class_N] > 1
    pairs, width = int(several_N.sum()) - len(np.unique(class_N[several_N])), len(mean_F)
    apart_NF = (feature_NF - mean_CF[class_N])[several_N]
    within_FF = apart_NF.T @ apart_NF / max(pairs, 1)
    if pairs >= width and moved_FF is None:
        return _rounded(within_FF, shrinkage)
    centred_NF = feature_NF - mean_F
    total_FF = centred_NF.T @ centred_NF / len(centred_NF)
    if moved_FF is not None:
        unpaired_FF = MOVED * moved_FF + (1 - MOVED) * _evened(total_FF)
        return _rounded(pairs * _evened(within_FF) + width * unpaired_FF, shrinkage)
    total_FF += EVENNESS * _ball(total_FF)
    if pairs:
        total_FF *= _size(within_FF) / _size(total_FF)
    return (pairs * within_FF + width * total_FF) / (pairs + width)


def _rounded(scatter_FF: Values, shrinkage: float) -> Values:
    return (1 - shrinkage) * scatter_FF + shrinkage * _ball(scatter_FF)


def _evened(scatter_FF: Values) -> Values:
    """At a mean variance of 1."""
    return scatter_FF / _size(scatter_FF)


def _ball(scatter_FF: Values) -> Values:
    return _size(scatter_FF) * np.eye(len(scatter_FF))


def _size(scatter_FF: Values) -> float:
    """The mean variance of its features, more than nothing."""
    return max(float(scatter_FF.trace()) / len(scatter_FF), np.finfo(np.float64).tiny)
