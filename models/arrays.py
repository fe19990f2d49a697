"""The kinds of arrays that pass between the folders here, and what there is to compute them with."""

import os
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    import torch

_shares: list[int] = []
Indices = npt.NDArray[np.int64]
"""Row numbers."""
Mask = npt.NDArray[np.bool_]
Weights = npt.NDArray[np.float32]
Scores = npt.NDArray[np.float32]
Values = npt.NDArray[np.float64]
Embeddings = npt.NDArray[np.float32]
"""(N, D), L2-normalised."""
Features = npt.NDArray[np.float32]
"""(N, F): what a frozen trunk makes of images."""


def best_device() -> "torch.device":
    """The first GPU where there is one, else the CPU."""
    # Configurations name arrays too, and are read without torch.
    import torch

    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def available_cpus() -> int:
    """CPUs that this process may use, where the system or `take_cpus` tells; else all there are."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min([allowed, *_shares])


def take_cpus(count: int) -> None:
    """Have this process, one of several on its machine, use no more CPUs than so many."""
    _shares.append(count)
