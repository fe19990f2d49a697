"""Kernel ridge regression: vectors predicted from texts' features, by their inner products with known ones."""

# T = texts, L = landmarks, D = dimensions, Q = queries

from dataclasses import dataclass

import numpy as np
from scipy import linalg  # type: ignore[import-untyped]  # SciPy publishes no type information

from pairloom.models.arrays import Values
from pairloom.models.closed_form.text_rows import AT_ONCE, TextRows

PENALTY = 0.3
"""What a weight's square costs, beside rows of length 1."""
EXACT = 8000
"""Rows that are all compared with: their products with one another take 8 bytes each."""
LANDMARKS = 3000
"""Rows that are compared with where there are more than `EXACT`."""
NUGGET = 1e-6
"""Added to the landmarks' products with themselves, since two of them may be the same."""


@dataclass(frozen=True)
class KernelRidge:
    """Predicts vectors as weighted sums of what is known at the landmarks."""

    landmarks: TextRows
    weight_LD: Values

    def __call__(self, queries: TextRows) -> Values:
        """(Q, D)."""
        found_QD = np.empty((len(queries), self.weight_LD.shape[1]))
        for start in range(0, len(queries), AT_ONCE):
            rows = slice(start, start + AT_ONCE)
            found_QD[rows] = queries[rows].products(self.landmarks) @ self.weight_LD
        return found_QD


def kernel_ridge(
    known: TextRows,
    target_TD: Values,
    *,
    seed: int,
    share_T: Values | None = None,
    penalty: float = PENALTY,
    exact: int = EXACT,
    landmarks: int = LANDMARKS,
) -> KernelRidge:
    """The least squares of the targets and `penalty` times the weights' (Saunders et al. 1998), with the linear kernel.

    `share_T` is what each row's square counts, above 0; 1 where left out. With more rows than `exact`, `landmarks` of
    them, drawn by `seed` and their shares, span the solution (Nyström's method: Williams and Seeger 2001). Raises
    ValueError where features and targets are not as many.
    """
    count = len(known)
    if count != len(target_TD):
        raise ValueError(f"there are features of {count} rows and targets of {len(target_TD)}")
    if count <= exact:
        product_TT = known.products(known)
        product_TT[np.diag_indices(count)] += penalty if share_T is None else penalty / share_T
        return KernelRidge(known, _solved(product_TT, target_TD))
    chance_T = None if share_T is None else share_T / share_T.sum()
    drawn_L = np.sort(np.random.default_rng(seed).choice(count, min(landmarks, count), replace=False, p=chance_T))
    drawn = known[drawn_L]
    moment_LL = penalty * drawn.products(drawn)
    moment_LL[np.diag_indices(len(drawn_L))] += NUGGET
    right_LD = np.zeros((len(drawn_L), target_TD.shape[1]))
    for start in range(0, count, AT_ONCE):
        rows = slice(start, start + AT_ONCE)
        product_LT = drawn.products(known[rows])
        shared_LT = product_LT if share_T is None else product_LT * share_T[rows]
        moment_LL += shared_LT @ product_LT.T
        right_LD += shared_LT @ target_TD[rows]
    return KernelRidge(drawn, _solved(moment_LL, right_LD))


def _solved(symmetric_LL: Values, right_LD: Values) -> Values:
    if not right_LD.size:
        return right_LD
    found: Values = linalg.solve(symmetric_LL, right_LD, assume_a="pos", overwrite_a=True)
    return found
