"""The text tower of a small model in NumPy: one query need not wait for torch and open_clip."""

# L = tokens of a text, F = width, H = heads, N = texts, D = embedding

import html
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import ftfy
import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open
from tokenizers import Tokenizer

from pairloom.models.arrays import Embeddings
from pairloom.models.fitness import require_finite
from pairloom.models.towers.layout import CONFIG_NAME, WEIGHTS_NAME
from pairloom.models.towers.tensors import no_tensors
from pairloom.models.towers.vocabulary import END_OF_TEXT_ID, saved_vocabulary

Floats = npt.NDArray[np.float32]

MODEL_KEYS = {"embed_dim", "vision_cfg", "text_cfg"}
TEXT_KEYS = {
    "context_length", "vocab_size", "width", "heads", "layers", "pool_type", "eos_id", "pad_id", "hf_tokenizer_name"
}  # fmt: skip
"""What may be said of a tower that is computed here; any other key changes it in a way that isn't written here."""
OTHERS = ("visual.", "second.", "logit_")
"""Beginnings of the names of weights that texts don't pass."""
EPSILON = 1e-5  # torch's, of a LayerNorm
SHORTEST = 1e-12  # torch's, of a length to divide by


@dataclass(frozen=True)
class QueryTower:
    """open_clip's causal `TextTransformer` with a vocabulary of ours, pooled where the text ends.

    Its embeddings are those of `Encoder.embed_texts` but for the order of summation (tests/test_query_tower.py).
    """

    tokenizer: Tokenizer
    weights: dict[str, Floats]
    heads: int
    layers: int

    @classmethod
    def load(cls, directory: Path) -> "QueryTower | None":
        """The text tower of an OpenCLIP directory; None where only the whole open_clip can compute it."""
        config = json.loads((directory / CONFIG_NAME).read_bytes())["model_cfg"]
        text_cfg = config["text_cfg"]
        plain = config.keys() <= MODEL_KEYS and text_cfg.keys() == TEXT_KEYS
        if not plain or (text_cfg["pool_type"], text_cfg["eos_id"]) != ("eos", END_OF_TEXT_ID):
            return None
        tokenizer = saved_vocabulary(directory, text_cfg["context_length"])
        weights = _read(directory / WEIGHTS_NAME)
        if tokenizer is None or weights.keys() != _names(text_cfg["layers"]):
            return None
        return cls(tokenizer, weights, text_cfg["heads"], text_cfg["layers"])

    @property
    def dimension(self) -> int:
        """Length D of an embedding."""
        length: int = self.weights["text_projection"].shape[1]
        return length

    def embed_texts(self, texts: Sequence[str]) -> Embeddings:
        """Float32 (N, D), L2-normalised. Raises UnfitModelError where an embedding is not finite."""
        embedding_ND = np.stack([self._embedding(self._tokens(text)) for text in texts])
        require_finite(embedding_ND, "text embeddings")
        length_N1 = np.linalg.norm(embedding_ND, axis=1, keepdims=True)
        unit_ND: Embeddings = embedding_ND / np.maximum(length_N1, SHORTEST)
        return unit_ND

    def _tokens(self, text: str) -> list[int]:
        """Token ids of one text up to its end, cleaned as open_clip's tokenizers for Hugging Face's files do it."""
        ids: list[int] = self.tokenizer.encode(" ".join(html.unescape(html.unescape(ftfy.fix_text(text))).split())).ids
        # What follows the first end is never looked at.
        return ids[: ids.index(END_OF_TEXT_ID) + 1]

    def _embedding(self, tokens: list[int]) -> Floats:
        state_LF = self.weights["token_embedding.weight"][tokens] + self.weights["positional_embedding"][: len(tokens)]
        for layer in range(self.layers):
            block = f"transformer.resblocks.{layer}"
            state_LF = state_LF + self._attended(f"{block}.attn", self._normed(f"{block}.ln_1", state_LF))
            hidden = self._linear(f"{block}.mlp.c_fc", self._normed(f"{block}.ln_2", state_LF))
            state_LF = state_LF + self._linear(f"{block}.mlp.c_proj", _gelu(hidden))
        pooled_F = self._normed("ln_final", state_LF[-1])
        embedding_D: Floats = pooled_F @ self.weights["text_projection"]
        return embedding_D

    def _attended(self, name: str, state_LF: Floats) -> Floats:
        """Causal self-attention."""
        length, width = state_LF.shape
        mixed = state_LF @ self.weights[f"{name}.in_proj_weight"].T + self.weights[f"{name}.in_proj_bias"]
        query_HLF, key_HLF, value_HLF = mixed.reshape(length, 3, self.heads, -1).transpose(1, 2, 0, 3)
        score_HLL = query_HLF @ key_HLF.transpose(0, 2, 1) / np.float32(math.sqrt(width // self.heads))
        score_HLL[:, np.triu(np.ones((length, length), bool), 1)] = -np.inf
        share_HLL = np.exp(score_HLL - score_HLL.max(axis=2, keepdims=True))
        share_HLL /= share_HLL.sum(axis=2, keepdims=True)
        return self._linear(f"{name}.out_proj", (share_HLL @ value_HLF).transpose(1, 0, 2).reshape(length, width))

    def _linear(self, name: str, state_LF: Floats) -> Floats:
        moved: Floats = state_LF @ self.weights[f"{name}.weight"].T + self.weights[f"{name}.bias"]
        return moved

    def _normed(self, name: str, state_LF: Floats) -> Floats:
        centred = state_LF - state_LF.mean(axis=-1, keepdims=True)
        scale = np.sqrt(np.square(centred).mean(axis=-1, keepdims=True) + np.float32(EPSILON))
        normed: Floats = centred / scale * self.weights[f"{name}.weight"] + self.weights[f"{name}.bias"]
        return normed


def _gelu(value: Floats) -> Floats:
    # SciPy's erf would take longer to import than this takes for a few texts.
    erf = np.frompyfunc(math.erf, 1, 1)(value * np.float32(math.sqrt(0.5))).astype(np.float32)
    gelu: Floats = value * np.float32(0.5) * (1 + erf)
    return gelu


def _read(file: Path) -> dict[str, Floats]:
    """The weights that texts pass; none where they are of another precision."""
    if not file.is_file():
        return {}
    try:
        with safe_open(file, framework="numpy") as stored:
            names = [name for name in stored.keys() if not name.startswith(OTHERS)]  # noqa: SIM118  # it is no dict
            if any(stored.get_slice(name).get_dtype() != "F32" for name in names):
                return {}
            return {name: stored.get_tensor(name) for name in names}
    except SafetensorError as error:
        raise no_tensors(file, error) from error


def _names(layers: int) -> set[str]:
    """The weights of a tower, no more and no fewer."""
    parts = ["attn.in_proj_", "attn.out_proj.", "ln_1.", "ln_2.", "mlp.c_fc.", "mlp.c_proj."]
    blocks = [f"transformer.resblocks.{layer}.{part}" for layer in range(layers) for part in parts]
    pairs = {f"{name}{kind}" for name in (*blocks, "ln_final.") for kind in ("weight", "bias")}
    return pairs | {"token_embedding.weight", "positional_embedding", "text_projection"}
