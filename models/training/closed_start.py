"""A start in closed form for a tower whose trunk is frozen: the projection by class means, and the texts at them."""

# N = items, T = unique texts, B = batch, F = features, D = embedding, L = tokens

import logging
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from pairloom.models.arrays import Embeddings, Features, Indices
from pairloom.models.batches.relations import Relations
from pairloom.models.closed_form.class_space import class_space
from pairloom.models.towers.dual_encoder import DualEncoder

logger = logging.getLogger(__name__)

TEXT_STEPS, TEXT_BATCH, TEXT_RATE = 400, 256, 3e-3


def start_in_closed_form(encoder: DualEncoder, feature_NF: Features, relations: Relations, *, seed: int) -> None:
    """Gives the image tower's projection and the text tower weights, in place, that find the items' classes already.

    The projection is linear discriminant analysis of the features, classes being the items of one group, or of one
    first text where a group has a single item. The text tower then learns to send each text to the mean of its items'
    embeddings, which takes seconds. ValueError where the image tower has another head than a linear projection.
    """
    head: Any = encoder.network.visual.head  # type: ignore[union-attr]
    proj = getattr(head, "proj", None)
    if not isinstance(proj, nn.Linear) or proj.bias is None:
        raise ValueError(
            "model.closed_form_start needs a linear projection with a bias: timm_proj: linear, timm_proj_bias: true"
        )
    found = class_space(feature_NF, _classes(relations), proj.out_features)
    embedding_ND = found(feature_NF).astype(np.float32)
    scale = float(np.linalg.norm(embedding_ND, axis=1).mean()) or 1.0
    dimensions = embedding_ND.shape[1]
    with torch.no_grad():
        # Dimensions that classes leave over hold nothing at first.
        proj.weight.zero_()
        proj.bias.zero_()
        proj.weight[:dimensions] = torch.from_numpy(found.map_FD.T / scale).to(proj.weight)
        proj.bias[:dimensions] = torch.from_numpy(-(found.mean_F @ found.map_FD) / scale).to(proj.bias)
    target_TD = np.zeros((len(relations.texts), proj.out_features), np.float32)
    target_TD[:, :dimensions] = _text_means(embedding_ND, relations)
    _send_texts(encoder, relations, torch.from_numpy(target_TD), seed)


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


def _send_texts(encoder: DualEncoder, relations: Relations, target_TD: torch.Tensor, seed: int) -> None:
    """Trains the text tower alone until texts lie near their targets, by cosine."""
    network: Any = encoder.network
    own = {id(parameter) for parameter in network.visual.parameters()} | {id(network.logit_scale)}
    trained = [parameter for parameter in network.parameters() if id(parameter) not in own]
    optimizer = torch.optim.AdamW(trained, lr=TEXT_RATE, betas=(0.9, 0.98), eps=1e-6, weight_decay=0.0)
    token_TL = encoder.tokenize(relations.texts)
    drawn = np.random.default_rng([seed, 7])
    network.train()
    loss = torch.zeros(())
    for step in range(TEXT_STEPS):
        rows = torch.from_numpy(drawn.permutation(len(target_TD))[:TEXT_BATCH])
        for group in optimizer.param_groups:
            group["lr"] = TEXT_RATE * min(1, 10 * (step + 1) / TEXT_STEPS) * (1 - step / TEXT_STEPS)
        text_BD = encoder.encode_texts(encoder.trim(token_TL[rows]))
        loss = 1 - F.cosine_similarity(text_BD, target_TD[rows].to(text_BD)).mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    network.eval()
    logger.info("closed form: texts lie at a mean cosine of %.3f to the mean of their items", 1 - loss.item())
