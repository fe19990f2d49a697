"""The floor: how well the same questions are answered by textbook features, fitted without a training loop.

Pictures are compared by oriented edges and colours, weighed by what differs between classes of known positives and not
among their members; a text is where ridge regression of its words and their pieces expects its pictures. A learned
model that answers no better has not earned its minutes.
"""

# N = items, T = unique texts, D = dimensions

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import sparse  # type: ignore[import-untyped]  # SciPy publishes no type information

from pairloom.models.arrays import Embeddings, Indices, Values
from pairloom.models.batches.relations import Relations, normalize_text
from pairloom.models.closed_form.discriminant import LinearMap, directions, discriminant, whitening
from pairloom.models.closed_form.image_features import BLOCKS, Pixels, image_features
from pairloom.models.closed_form.text_regression import TextRegression, text_regression

ITEMS = 10_000
"""Training items that the floor is fitted on, at most."""
DIMENSIONS = 256
_AT_ONCE = 2048


@dataclass(frozen=True)
class TextbookFeatures:
    """An encoder of pictures and texts, fitted in closed form."""

    image_map: LinearMap
    regression: TextRegression

    def embed_images(self, pixels_NHWC: Pixels) -> Embeddings:
        """Float32 (N, D), L2-normalised, of pictures of `closed_form.image_features.SIDE`."""
        return _embedded(self.image_map, pixels_NHWC)

    def embed_texts(self, texts: Sequence[str]) -> Embeddings:
        """Float32 (T, D), L2-normalised; zero for a text that shares nothing with the texts that it was fitted on."""
        return directions(self.regression([normalize_text(text) for text in texts])).astype(np.float32)


def fit_items(item_ids: Sequence[str], groups: Sequence[str | None], *, seed: int, limit: int = ITEMS) -> Indices:
    """Rows of the items to fit on, in the order of their ids: all, or whole groups drawn by `seed` while they fit.

    The draw depends on the ids and groups, not on the order of items.
    """
    ordered = sorted(range(len(item_ids)), key=item_ids.__getitem__)
    if len(ordered) > limit:
        members: dict[object, list[int]] = {}
        for row in ordered:
            members.setdefault(row if groups[row] is None else groups[row], []).append(row)
        whole, drawn = list(members.values()), list[int]()
        for number in np.random.default_rng(seed).permutation(len(whole)):
            drawn += whole[number][: limit - len(drawn)]
        ordered = sorted(drawn, key=item_ids.__getitem__)
    return np.array(ordered, dtype=np.int64)


def textbook_features(pixels_NHWC: Pixels, relations: Relations, *, seed: int) -> TextbookFeatures:
    """Fitted on the pictures (N, SIDE, SIDE, 3) of training items and what `relations` say of them.

    Raises ValueError where there are no items, or pictures of another number or size.
    """
    if len(pixels_NHWC) != len(relations):
        raise ValueError(f"there are {len(pixels_NHWC)} pictures of {len(relations)} items")
    feature_NF, class_N = image_features(pixels_NHWC), relations.classes()
    white = whitening(feature_NF, DIMENSIONS, BLOCKS)
    image_map = white.then(discriminant(white(feature_NF), class_N))
    image_ND = directions(image_map(feature_NF))
    texts, target_TD = _targets(image_ND, class_N, relations)
    return TextbookFeatures(image_map, text_regression(texts, target_TD, seed=seed))


def _targets(image_ND: Values, class_N: Indices, relations: Relations) -> tuple[list[str], Values]:
    """The texts, and where each is to be: the mean direction of the images of the classes whose items carry it."""
    _, class_N = np.unique(class_N, return_inverse=True)
    sum_CD = np.zeros((class_N.max() + 1, image_ND.shape[1]))
    np.add.at(sum_CD, class_N, image_ND)
    mean_CD = sum_CD / np.bincount(class_N)[:, None]
    carriers, carried = relations.item_texts.owners, relations.item_texts.values_V
    carries_TC = sparse.csr_matrix(
        (np.ones(len(carried)), (carried, class_N[carriers])), (len(relations.texts), len(mean_CD))
    )
    return [normalize_text(text) for text in relations.texts], directions(carries_TC @ mean_CD)


def _embedded(image_map: LinearMap, pixels_NHWC: Pixels) -> Embeddings:
    image_ND = np.empty((len(pixels_NHWC), image_map.map_FD.shape[1]), np.float32)
    for start in range(0, len(pixels_NHWC), _AT_ONCE):
        rows = slice(start, start + _AT_ONCE)
        image_ND[rows] = directions(image_map(image_features(pixels_NHWC[rows])))
    return image_ND
