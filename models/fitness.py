"""Tells a model that must not serve: what it gives are no numbers, or its training ended in none."""

import numpy as np
import numpy.typing as npt


class UnfitModelError(RuntimeError):
    """A model that is no use, whatever it is measured against: a gate holds it."""


def require_finite(values: npt.NDArray[np.floating], what: str) -> None:
    """Raises UnfitModelError where a row of `values`, `what` a model gave, holds NaN or an infinity."""
    finite = np.isfinite(values).all(axis=tuple(range(1, values.ndim)))
    if not finite.all():
        raise UnfitModelError(f"{int((~finite).sum())} of {len(values)} {what} are not finite numbers")
