"""Embeddings laid out on a plane, for people to look at: PCA, or UMAP where it is installed."""

# S = items that the plane is made from, N = items placed on it, D = embedding

from importlib.util import find_spec
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]

Method = Literal["pca", "umap"]
NEIGHBOURS = 15
"""What UMAP takes for near, its authors' default."""
NO_UMAP = "a map by umap needs umap-learn: pip install 'pairloom[map]', or take pca"


class Projection:
    """A plane fitted to some embeddings, on which any others can be placed."""

    def __init__(self, embedding_SD: Floats, method: Method = "pca", *, seed: int = 0) -> None:
        """Fit the plane; ValueError where UMAP isn't installed or has too few items to tell which are near."""
        self._reducer = _pca(embedding_SD) if method == "pca" else _umap(len(embedding_SD), seed)
        # Of a single item PCA divides by zero to tell its variance.
        with np.errstate(invalid="ignore"):
            self._reducer.fit(embedding_SD)
        self.explained: float | None = None
        """Share of the embeddings' variance that PCA's plane keeps."""
        if method == "pca":
            self.explained = float(np.nan_to_num(self._reducer.explained_variance_ratio_).sum())

    def place(self, embedding_ND: Floats) -> Floats:
        """Points (N, 2)."""
        if not len(embedding_ND):
            return np.empty((0, 2), np.float32)
        point_NA: Floats = np.asarray(self._reducer.transform(embedding_ND), np.float32)
        return np.pad(point_NA, ((0, 0), (0, 2 - point_NA.shape[1])))


def require_method(method: Method) -> None:
    """Raises ValueError where a method's package isn't installed; imports nothing to tell."""
    if method == "umap" and find_spec("umap") is None:
        raise ValueError(NO_UMAP)


def _pca(embedding_SD: Floats) -> Any:
    from sklearn.decomposition import PCA

    return PCA(min(2, *embedding_SD.shape), svd_solver="full")


def _umap(items: int, seed: int) -> Any:
    # McInnes et al. 2018. Seconds to import, and an extra.
    try:
        from umap import UMAP
    except ImportError as error:
        raise ValueError(NO_UMAP) from error
    if items <= NEIGHBOURS:
        raise ValueError(f"a map by umap takes more than {NEIGHBOURS} items, here are {items}: take pca")
    return UMAP(n_neighbors=NEIGHBOURS, metric="cosine", random_state=seed, n_jobs=1)
