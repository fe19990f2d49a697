"""Linear maps fitted in closed form: whitening, and what tells classes apart and not the members of one."""

# N = items, F = features, D = dimensions, E = dimensions that differ between classes, C = classes

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import linalg  # type: ignore[import-untyped]  # SciPy publishes no type information

from pairloom.models.arrays import Indices, Values

Floats = npt.NDArray[np.float32] | Values

NOTHING = 1e-9
"""Share of the largest variance that is no more than rounding."""
_AT_ONCE = 4096


@dataclass(frozen=True)
class LinearMap:
    """x → (x - mean) map."""

    mean_F: Values
    map_FD: Values

    def __call__(self, feature_NF: Floats) -> Values:
        """(N, D)."""
        mapped_ND = np.empty((len(feature_NF), self.map_FD.shape[1]))
        for rows in _runs(len(feature_NF)):
            mapped_ND[rows] = (feature_NF[rows] - self.mean_F) @ self.map_FD
        return mapped_ND

    def then(self, map_DE: Values) -> "LinearMap":
        """This map followed by another."""
        return LinearMap(self.mean_F, self.map_FD @ map_DE)


def whitening(feature_NF: Floats, dimensions: int, blocks: Sequence[int] = ()) -> LinearMap:
    """The principal components of most variance, at most `dimensions`, each scaled to variance 1 (PCA whitening).

    Before that each of `blocks`, runs of so many features, is scaled to the same total variance. Raises ValueError
    without features, or where the blocks are not all of them.
    """
    if not len(feature_NF):
        raise ValueError("whitening needs features of one item or more")
    width = feature_NF.shape[1]
    if blocks and sum(blocks) != width:
        raise ValueError(f"blocks of {sum(blocks)} features are not the {width} that there are")
    mean_F, sizes = feature_NF.mean(axis=0, dtype=np.float64), tuple(blocks) or (width,)
    variance_F = np.zeros(width)
    for rows in _runs(len(feature_NF)):
        variance_F += ((feature_NF[rows] - mean_F) ** 2).sum(axis=0) / len(feature_NF)
    total_F = np.repeat(
        [variance_F[end - size : end].sum() for size, end in zip(sizes, np.cumsum(sizes), strict=True)], sizes
    )
    scale_F = np.where(total_F > 0, 1 / np.sqrt(np.where(total_F > 0, total_F, 1)), 0)
    if len(feature_NF) < width:
        # The same axes from the products of items, of which there are fewer.
        scaled_NF = (feature_NF - mean_F) * scale_F
        variance_D, side_ND = _largest(scaled_NF @ scaled_NF.T / len(feature_NF), dimensions)
        axes_FD = scaled_NF.T @ side_ND / np.sqrt(variance_D * len(feature_NF))
    else:
        covariance_FF = np.zeros((width, width))
        for rows in _runs(len(feature_NF)):
            scaled_NF = (feature_NF[rows] - mean_F) * scale_F
            covariance_FF += scaled_NF.T @ scaled_NF / len(feature_NF)
        variance_D, axes_FD = _largest(covariance_FF, dimensions)
    return LinearMap(mean_F, scale_F[:, None] * axes_FD / np.sqrt(variance_D))


def discriminant(feature_ND: Values, class_N: Indices) -> Values:
    """(D, E): the map after which classes are far apart for how far their members are.

    Regularised linear discriminant analysis (Fisher 1936; Friedman 1989): the scatter within classes becomes that of a
    ball, and each direction is weighed by the root of the share that classes have in its variance (the intraclass
    correlation), so that none need be cut off. The scatter is shrunk towards a ball by D / (D + pairs), `pairs` being
    the members less the classes that they are of; classes of one member tell nothing of it. Without a class of two
    members, or where classes differ in nothing, the map changes nothing.
    """
    _, class_N = np.unique(class_N, return_inverse=True)
    width, size_C = feature_ND.shape[1], np.bincount(class_N)
    sum_CD = np.zeros((len(size_C), width))
    np.add.at(sum_CD, class_N, feature_ND)
    several_N = size_C[class_N] > 1
    pairs = int(several_N.sum() - (size_C > 1).sum())
    if pairs == 0:
        return np.eye(width)
    apart_ND = (feature_ND - (sum_CD / size_C[:, None])[class_N])[several_N]
    within_DD = apart_ND.T @ apart_ND / pairs
    shrinkage = width / (width + pairs)
    ball = max(float(within_DD.trace()) / width, NOTHING)
    within_DD = (1 - shrinkage) * within_DD + shrinkage * ball * np.eye(width)
    variance_D, axes_DD = linalg.eigh(within_DD)
    round_DD = axes_DD / np.sqrt(np.maximum(variance_D, NOTHING * ball))
    centred_ND = (feature_ND - feature_ND.mean(axis=0)) @ round_DD
    between_D, axes_DD = linalg.eigh(centred_ND.T @ centred_ND / len(feature_ND) - np.eye(width))
    telling = between_D > 0
    if not telling.any():
        return np.eye(width)
    weight_E = np.sqrt(between_D[telling] / (between_D[telling] + 1))
    found_DE: Values = round_DD @ (axes_DD[:, telling] * weight_E)
    return found_DE


def directions(feature_ND: Values) -> Values:
    """The rows at length 1; the zero vector stays."""
    length_N1 = np.linalg.norm(feature_ND, axis=1, keepdims=True)
    found_ND: Values = feature_ND / np.where(length_N1 > 0, length_N1, 1)
    return found_ND


def _largest(symmetric_FF: Values, count: int) -> tuple[Values, Values]:
    """The at most `count` largest eigenvalues that are more than nothing, and their vectors as columns."""
    width = len(symmetric_FF)
    value_D, vector_FD = linalg.eigh(symmetric_FF, subset_by_index=(max(width - count, 0), width - 1))
    kept_D = value_D > NOTHING * max(value_D[-1], 0.0)
    return value_D[kept_D], vector_FD[:, kept_D]


def _runs(count: int) -> list[slice]:
    return [slice(start, start + _AT_ONCE) for start in range(0, count, _AT_ONCE)]
