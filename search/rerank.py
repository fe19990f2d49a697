"""A second look at the nearest items: the released model's cross-encoder reads each of them together with the query."""

# N = rows

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from PIL import Image

from pairloom.search.release import OpenRelease
from pairloom.storage.images.decoding import open_stored

if TYPE_CHECKING:
    from pairloom.models.arrays import Scores

CANDIDATES = 50
"""Rows that are scored again where nobody says how many."""
SCORE_DIGITS = 6

Scorer = Callable[[pa.Table], npt.NDArray[np.float64]]
"""A score for each row that has `thumbnail`, `texts` and `score`."""


def text_scorer(release: OpenRelease, text: str) -> Scorer:
    """How well a text describes the image of each row, the cosine of both weighed in.

    The images are the table's thumbnails: they come with the rows, while the corpus' Parquet would have to be read by
    the thousand for fifty of them. ValueError where the model has no cross-encoder.
    """
    reranker = release.reranker

    def score(rows: pa.Table) -> npt.NDArray[np.float64]:
        images = [open_stored(content) for content in rows["thumbnail"].to_pylist()]
        return _rounded(reranker.score_images(text, images, rows["score"].to_numpy()))

    return score


def image_scorer(release: OpenRelease, image: Image.Image) -> Scorer:
    """How well the best of each row's texts describes an image. ValueError where the model has no cross-encoder."""
    reranker = release.reranker

    def score(rows: pa.Table) -> npt.NDArray[np.float64]:
        own = rows["texts"].to_pylist()
        texts = list(dict.fromkeys(text for each in own for text in each))
        found = dict(zip(texts, _rounded(reranker.score_texts(image, texts)).tolist(), strict=True))
        return np.array([max(found[text] for text in each) for each in own], dtype=np.float64)

    return score


def _rounded(score_N: "Scores") -> npt.NDArray[np.float64]:
    return np.asarray(np.round(score_N.astype(np.float64), SCORE_DIGITS), np.float64)
