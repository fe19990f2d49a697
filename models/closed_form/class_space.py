"""The few directions in which classes differ, for how far their members are apart: linear discriminant analysis."""

# N = items, F = features, C = classes, D = dimensions

import numpy as np
from scipy import linalg  # type: ignore[import-untyped]  # SciPy publishes no type information

from pairloom.models.arrays import Features, Indices
from pairloom.models.closed_form.discriminant import LinearMap, whitening

SHRINKAGE = 0.3
"""How far the scatter within classes is drawn to a ball: what a frozen network's features want, measured in
benchmarks/pretrained.md."""


def class_space(feature_NF: Features, class_N: Indices, dimensions: int) -> LinearMap:
    """At most `dimensions` directions (F, D) that hold the class means, where the scatter within classes is a ball.

    Regularised linear discriminant analysis (Fisher 1936; Friedman 1989), all directions weighing the same; the most
    telling ones first. Where no class has two members, whitened principal components, which need none.
    """
    _, class_N, size_C = np.unique(class_N, return_inverse=True, return_counts=True)
    if size_C.max(initial=0) < 2 or len(size_C) < 2:
        return whitening(feature_NF, dimensions)
    several_N = size_C[class_N] > 1
    mean_F = feature_NF.mean(axis=0, dtype=np.float64)
    mean_CF = np.zeros((len(size_C), feature_NF.shape[1]))
    np.add.at(mean_CF, class_N, feature_NF)
    mean_CF /= size_C[:, None]
    apart_NF = (feature_NF - mean_CF[class_N])[several_N]
    within_FF = apart_NF.T @ apart_NF / (several_N.sum() - (size_C > 1).sum())
    ball = max(float(within_FF.trace()) / len(within_FF), np.finfo(np.float64).tiny)
    within_FF = (1 - SHRINKAGE) * within_FF + SHRINKAGE * ball * np.eye(len(within_FF))
    # With within = L L', x → L⁻¹ x makes it a ball.
    lower_FF = linalg.cholesky(within_FF, lower=True)
    round_CF = linalg.solve_triangular(lower_FF, (mean_CF - mean_F).T, lower=True).T
    _, strength_D, axes_DF = linalg.svd(round_CF, full_matrices=False)
    kept = strength_D > 1e-6 * strength_D[0]
    axes_DF = axes_DF[kept][:dimensions]
    map_FD = linalg.solve_triangular(lower_FF, axes_DF.T, lower=True, trans="T")
    return LinearMap(mean_F, map_FD)
