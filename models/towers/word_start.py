"""Starts the token embeddings of a text tower from word vectors."""

# V = words, L = tokens, D = width of the token embeddings

from typing import Any

import torch
from torch import nn

from pairloom.models.towers.dual_encoder import DualEncoder
from pairloom.models.towers.word_vectors import WordVectors


def start_from_words(encoder: DualEncoder, words: WordVectors) -> int:
    """Gives every token that is a whole word the vector of its word, in place; returns how many those are.

    The vectors are centred and scaled to the spread of the random embeddings that they replace; all other tokens keep
    theirs. ValueError where the tower has no token embeddings of this width.
    """
    table = _token_embedding(encoder.network)
    width, dimension = table.embedding_dim, words.vector_VD.shape[1]
    if width != dimension:
        raise ValueError(
            f"model.word_vectors.dimension: {dimension}, but the text tower's token embeddings have {width}: set it to "
            f"{width}"
        )
    token_VL = encoder.tokenize(words.words)
    marks = torch.tensor(sorted(set(encoder.tokenize([""])[0].tolist())))
    content_VL = ~torch.isin(token_VL, marks)
    whole_V = content_VL.sum(1) == 1
    tokens = (token_VL * content_VL).sum(1)[whole_V]
    vector_VD = torch.from_numpy(words.vector_VD)
    vector_VD = vector_VD - vector_VD.mean(dim=0)
    with torch.no_grad():
        scaled_VD = vector_VD * (table.weight.std().cpu() / vector_VD.std())
        table.weight[tokens.to(table.weight.device)] = scaled_VD[whole_V].to(table.weight)
    return int(whole_V.sum())


def vocabulary_words(encoder: DualEncoder) -> list[str]:
    """The tokens of a fitted vocabulary as words, where they begin one; none of another tokenizer."""
    tokenizer = getattr(encoder.tokenizer, "tokenizer", None)
    return [] if tokenizer is None else [token.removeprefix("Ġ") for token in tokenizer.get_vocab()]


def token_width(encoder: DualEncoder) -> int:
    """Length of a token embedding. ValueError where the tower has no table of them."""
    return _token_embedding(encoder.network).embedding_dim


def _token_embedding(network: Any) -> nn.Embedding:
    table = getattr(getattr(network, "text", network), "token_embedding", None)
    if not isinstance(table, nn.Embedding):
        raise ValueError("model.word_vectors: this text tower has no table of token embeddings to start; leave it out")
    return table
