"""A start in closed form for a tower whose trunk is frozen: the projection by class means, and the texts at them."""

# N = items, T = unique texts, V = tokens, F = features, D = embedding

import logging
from typing import Any

import numpy as np
import torch
from torch import nn

from pairloom.models.arrays import Embeddings, Features, Indices
from pairloom.models.batches.relations import Relations, normalize_text
from pairloom.models.closed_form.class_space import class_space
from pairloom.models.closed_form.text_regression import text_regression
from pairloom.models.towers.dual_encoder import DualEncoder
from pairloom.models.towers.text_sums import add_up_tokens, token_texts
from pairloom.models.towers.trunk import has_token_head
from pairloom.models.towers.vocabulary import END_OF_TEXT_ID

logger = logging.getLogger(__name__)

UNKNOWN = 1e-3
"""How far a text without a known word leans to where texts are on average."""


def start_in_closed_form(encoder: DualEncoder, feature_NF: Features, relations: Relations, *, seed: int) -> None:
    """Gives the image tower's projection and the text tower weights, in place, that find the items' classes already.

    The projection is linear discriminant analysis of the features, classes being the items of one group, or of one
    first text where a group has a single item. A text is where ridge regression of its words and their pieces expects
    the mean of its items' embeddings, each token standing for its own words and pieces. ValueError where the towers
    can't hold that.
    """
    embedding_ND = _project(encoder, feature_NF, _classes(relations))
    texts = [normalize_text(text) for text in relations.texts]
    regression = text_regression(texts, _text_means(embedding_ND, relations), seed=seed)
    token_VD = regression.sums(token_texts(encoder))
    token_VD[END_OF_TEXT_ID] = UNKNOWN * regression(texts).mean(axis=0)
    add_up_tokens(encoder, token_VD)
    logger.info("closed form: %d dimensions, %d tokens", embedding_ND.shape[1], len(token_VD))


def _project(encoder: DualEncoder, feature_NF: Features, class_N: Indices) -> Embeddings:
    """Sets the projection; returns the embeddings (N, D), not normalised."""
    visual: Any = encoder.network.visual
    norm = visual.ln_post if has_token_head(visual) else None
    proj = visual.proj if norm is not None else getattr(visual.head, "proj", None)
    if norm is None and (not isinstance(proj, nn.Linear) or proj.bias is None):
        raise ValueError(
            "model.closed_form_start needs a linear projection with a bias: timm_proj: linear, timm_proj_bias: true"
        )
    with torch.no_grad():
        if norm is not None:
            norm.weight.fill_(1)
            norm.bias.zero_()
            feature_NF = norm(torch.from_numpy(feature_NF).to(encoder.device)).cpu().numpy()
        weight_DF = proj.T if norm is not None else proj.weight
        found = class_space(feature_NF, class_N, len(weight_DF))
        embedding_ND = np.zeros((len(feature_NF), len(weight_DF)), np.float32)
        dimensions = found.map_FD.shape[1]
        embedding_ND[:, :dimensions] = found(feature_NF)
        scale = float(np.linalg.norm(embedding_ND, axis=1).mean()) or 1.0
        # Dimensions that classes leave over hold nothing at first.
        weight_DF.zero_()
        weight_DF[:dimensions] = torch.from_numpy(found.map_FD.T / scale).to(weight_DF)
        if norm is not None:
            norm.bias.copy_(torch.from_numpy(-found.mean_F))
        else:
            proj.bias.zero_()
            proj.bias[:dimensions] = torch.from_numpy(-(found.mean_F @ found.map_FD) / scale).to(proj.bias)
    return embedding_ND


def _classes(relations: Relations) -> Indices:
    """One integer an item."""
    _, place_N, size = np.unique(relations.group_N, return_inverse=True, return_counts=True)
    first_N = np.array([own[0] for own in relations.item_texts], np.int64)
    return np.where(size[place_N] > 1, len(relations.texts) + place_N, first_N)


def _text_means(embedding_ND: Embeddings, relations: Relations) -> Embeddings:
    """(T, D): the mean direction of the items that carry each text."""
    unit_ND = embedding_ND / np.maximum(np.linalg.norm(embedding_ND, axis=1, keepdims=True), 1e-12)
    mean_TD = np.zeros((len(relations.texts), embedding_ND.shape[1]), np.float32)
    for own, unit_D in zip(relations.item_texts, unit_ND, strict=True):
        mean_TD[own] += unit_D
    unit_TD: Embeddings = mean_TD / np.maximum(np.linalg.norm(mean_TD, axis=1, keepdims=True), 1e-12)
    return unit_TD
