"""A start in closed form for a tower whose trunk is frozen: the projection by class means, and the texts at them."""

# N = items, T = unique texts, V = tokens, B = batch, L = tokens of a text, F = features, D = embedding

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from pairloom.models.arrays import Embeddings, Features, Indices
from pairloom.models.batches.relations import Relations, normalize_text
from pairloom.models.closed_form.class_space import class_space
from pairloom.models.closed_form.text_regression import text_regression
from pairloom.models.ragged import Ragged
from pairloom.models.towers.config import ModelConfig
from pairloom.models.towers.dual_encoder import DualEncoder
from pairloom.models.towers.package_words import package_meanings
from pairloom.models.towers.text_sums import add_up_tokens, token_texts
from pairloom.models.towers.trunk import has_token_head
from pairloom.models.towers.vocabulary import END_OF_TEXT_ID

logger = logging.getLogger(__name__)

MANY = 8
"""Items that carry a text, from which on it is learned by heart."""
TEXT_STEPS, TEXT_BATCH, TEXT_RATE = 200, 256, 1e-3
UNKNOWN = 1e-3
"""How far a text without a known word leans to where texts are on average."""


def start_in_closed_form(
    encoder: DualEncoder,
    feature_NF: Features,
    relations: Relations,
    config: ModelConfig,
    *,
    seed: int,
    keywords: Sequence[Sequence[str]] = (),
    apart_MF: Features | None = None,
) -> None:
    """Gives the image tower's projection and the text tower weights, in place, that find the items' classes already.

    The projection is linear discriminant analysis of the features, the scatter within classes drawn to a ball by
    `config.shrinkage`; classes are the items of one group, or of one first text where a group has a single item. A
    text is where ridge regression of its words and their pieces expects the mean of its items' embeddings, each token
    standing for its own words and pieces, and for what words mean where `config.word_vectors` name a package; texts
    that many items carry are then brought to their mean. `keywords` of each item are as texts that count little;
    `apart_MF` is how far moving takes the features of some items. ValueError where the towers can't hold that.
    """
    embedding_ND = _project(encoder, feature_NF, relations.classes(), config.shrinkage, apart_MF)
    words = config.word_vectors
    meanings = package_meanings(words) if isinstance(words, str) else None
    texts = [normalize_text(text) for text in relations.texts]
    target_TD = _text_means(embedding_ND, relations.item_texts, len(texts))
    words_of, more = _keywords(keywords, texts)
    known_TD = np.concatenate([target_TD, _text_means(embedding_ND, words_of, len(more))]).astype(np.float64)
    regression = text_regression(texts, known_TD, seed=seed, meanings=meanings, keywords=more)
    token_VD = regression.sums(token_texts(encoder))
    token_VD[END_OF_TEXT_ID] = UNKNOWN * regression(texts).mean(axis=0)
    add_up_tokens(encoder, token_VD)
    _learn_by_heart(encoder, relations, target_TD, seed)


def _project(
    encoder: DualEncoder, feature_NF: Features, class_N: Indices, shrinkage: float, apart_MF: Features | None
) -> Embeddings:
    """Sets the projection; returns the embeddings (N, D), not normalised."""
    visual: Any = encoder.network.visual
    norm: Any = visual.ln_post if has_token_head(visual) else None
    proj: Any = visual.proj if norm is not None else getattr(visual.head, "proj", None)
    if norm is None and (not isinstance(proj, nn.Linear) or proj.bias is None):
        raise ValueError(
            "model.closed_form_start needs a linear projection with a bias: timm_proj: linear, timm_proj_bias: true"
        )
    with torch.no_grad():
        if norm is not None:
            norm.weight.fill_(1)
            norm.bias.zero_()
            feature_NF = norm(torch.tensor(feature_NF, device=encoder.device)).cpu().numpy()
        weight_DF = proj.T if norm is not None else proj.weight
        found = class_space(feature_NF, class_N, len(weight_DF), shrinkage=shrinkage, apart_MF=apart_MF)
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


def _keywords(keywords: Sequence[Sequence[str]], texts: Sequence[str]) -> tuple[Ragged, list[str]]:
    """Numbers of each item's keywords, and these keywords, those left out that are texts."""
    number: dict[str, int] = {}
    known = set(texts)
    own = ([word for word in dict.fromkeys(map(normalize_text, each)) if word not in known] for each in keywords)
    found = [np.array([number.setdefault(word, len(number)) for word in each], dtype=np.int64) for each in own]
    return Ragged.of(found), list(number)


def _text_means(embedding_ND: Embeddings, item_texts: Ragged, count: int) -> Embeddings:
    """(T, D): the mean direction of the items that carry each of `count` texts."""
    unit_ND = embedding_ND / np.maximum(np.linalg.norm(embedding_ND, axis=1, keepdims=True), 1e-12)
    mean_TD = np.zeros((count, embedding_ND.shape[1]), np.float32)
    np.add.at(mean_TD, item_texts.values_V, unit_ND[item_texts.owners])
    unit_TD: Embeddings = mean_TD / np.maximum(np.linalg.norm(mean_TD, axis=1, keepdims=True), 1e-12)
    return unit_TD


def _learn_by_heart(encoder: DualEncoder, relations: Relations, target_TD: Embeddings, seed: int) -> None:
    """Trains the text tower alone until the texts of many items lie near their means, by cosine.

    What few items carry stays where the regression expects it: their mean says less than their words do.
    """
    count_T = np.bincount(relations.item_texts.values_V, minlength=len(target_TD))
    many = np.flatnonzero(count_T >= MANY)
    if not len(many):
        return
    network: Any = encoder.network
    own = {id(parameter) for parameter in network.visual.parameters()} | {id(network.logit_scale)}
    trained = [parameter for parameter in network.parameters() if id(parameter) not in own]
    optimizer = torch.optim.AdamW(trained, lr=TEXT_RATE, betas=(0.9, 0.98), eps=1e-6, weight_decay=0.0)
    token_TL = encoder.tokenize([relations.texts[text] for text in many])
    aim_TD = torch.from_numpy(target_TD[many])
    drawn = np.random.default_rng([seed, 7])
    network.train()
    for step in range(TEXT_STEPS):
        rows = torch.from_numpy(drawn.permutation(len(many))[:TEXT_BATCH])
        for group in optimizer.param_groups:
            group["lr"] = TEXT_RATE * min(1, 10 * (step + 1) / TEXT_STEPS) * (1 - step / TEXT_STEPS)
        text_BD = encoder.encode_texts(encoder.trim(token_TL[rows]))
        loss = 1 - F.cosine_similarity(text_BD, aim_TD[rows].to(text_BD)).mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    network.eval()
    logger.info("closed form: texts lie at a mean cosine of %.3f to the mean of their items", 1 - loss.item())
