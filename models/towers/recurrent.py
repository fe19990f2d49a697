"""A recurrent text tower, of which open_clip has none: an LSTM, saved beside what plain open_clip loads.

open_clip_config.json, open_clip_model.safetensors   the image tower, as plain open_clip loads it; in the place of the
                                                     text tower, one without a vocabulary, which refuses any text
tokenizer*.json                                      what plain `open_clip.get_tokenizer` loads
text_tower/config.json, model.safetensors            the LSTM, which Pairloom alone builds
"""

# B = batch, L = tokens, W = width of the token embeddings, H = width of the hidden states, D = embedding

import json
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import BaseModel, Field
from safetensors.torch import save
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from pairloom.models.towers.tensors import read_tensors

TEXT_TOWER = "text_tower"
CONFIG, WEIGHTS = "config.json", "model.safetensors"
EMBEDDING_STD = 0.5
WITHOUT_WORDS = {"vocab_size": 0, "width": 1, "heads": 1, "layers": 1}
"""open_clip's smallest text tower: without a vocabulary, its first lookup fails."""


class LstmShape(BaseModel, frozen=True, extra="forbid", use_attribute_docstrings=True):
    """`text_cfg.lstm` of an architecture."""

    width: int = Field(default=128, ge=1)
    """Length of a token's embedding, and of a hidden state in each direction."""
    layers: int = Field(default=1, ge=1)
    """LSTMs on top of each other."""


class LstmTextConfig(BaseModel, frozen=True, extra="forbid", use_attribute_docstrings=True):
    """`text_cfg` of an architecture with a recurrent text tower."""

    lstm: LstmShape
    """Its shape."""
    context_length: int = Field(default=24, ge=2)
    """Tokens a text is cut to."""
    vocab_size: int = Field(default=4096, ge=259)
    """Tokens that the vocabulary may hold."""
    hf_tokenizer_name: Literal["fitted"] = "fitted"
    """The vocabulary is fitted to the corpus."""
    pad_id: int = 0
    """Token that fills up a text."""
    eos_id: int = 1
    """Token that ends a text."""


class LstmTextTower(nn.Module):
    """Token ids (B, L) → embeddings (B, D), not normalised.

    A bidirectional LSTM (Hochreiter & Schmidhuber 1997; Graves & Schmidhuber 2005) and, as in InferSent (Conneau et al.
    2017), the largest value that each of its states takes over the text. What follows the end-of-text token is never
    looked at, so that trimming changes nothing.
    """

    def __init__(self, config: LstmTextConfig, dimension: int) -> None:
        super().__init__()
        width, layers = config.lstm.width, config.lstm.layers
        self.end_id, self.layers = config.eos_id, layers
        self.token_embedding = nn.Embedding(config.vocab_size, width)
        self.lstm = nn.LSTM(width, width, layers, batch_first=True, bidirectional=True)
        self.ln_final = nn.LayerNorm(2 * width)
        self.text_projection = nn.Linear(2 * width, dimension, bias=False)
        nn.init.normal_(self.token_embedding.weight, std=EMBEDDING_STD)
        nn.init.normal_(self.text_projection.weight, std=(2 * width) ** -0.5)
        for name, parameter in self.lstm.named_parameters():
            if name.startswith("bias_ih"):
                # A forget gate that starts open (Jozefowicz et al. 2015); torch keeps the gates as i, f, g, o.
                nn.init.ones_(parameter[width : 2 * width])

    def forward(self, token_BL: torch.Tensor) -> torch.Tensor:
        """Embeddings (B, D)."""
        # The lengths are needed on the CPU; without an end, which our tokenizer never leaves out, all tokens count.
        ends_BL = token_BL == self.end_id
        length_B = torch.where(ends_BL.any(1), ends_BL.int().argmax(1) + 1, token_BL.shape[1]).cpu()
        packed = pack_padded_sequence(self.token_embedding(token_BL), length_B, batch_first=True, enforce_sorted=False)
        state_BLH, _ = pad_packed_sequence(self.lstm(packed)[0], batch_first=True)
        # Not pad_packed_sequence's own padding value: ONNX has none but 0.
        after_BL = torch.arange(state_BLH.shape[1])[None] >= length_B[:, None]
        state_BLH = state_BLH.masked_fill(after_BL.to(state_BLH.device)[:, :, None], -torch.inf)
        embedding_BD: torch.Tensor = self.text_projection(self.ln_final(state_BLH.amax(dim=1)))
        return embedding_BD

    def lock(self, unlocked_layers: int = 0, freeze_layer_norm: bool = True) -> None:  # noqa: ARG002  # open_clip's signature
        """Freezes all but the last groups: the projection, then each LSTM from the top, then the token embeddings."""
        groups = [[self.token_embedding.weight]]
        for layer in range(self.layers):
            names = (f"_l{layer}", f"_l{layer}_reverse")
            groups.append([each for name, each in self.lstm.named_parameters() if name.endswith(names)])
        groups[-1].extend(self.ln_final.parameters())
        groups.append([self.text_projection.weight])
        for group in groups[: len(groups) - unlocked_layers]:
            for parameter in group:
                parameter.requires_grad_(False)


def text_config(config: dict[str, Any]) -> LstmTextConfig | None:
    """The recurrent text tower of an architecture, or none where open_clip builds it. ValueError for bad keys."""
    text_cfg = config["model_cfg"]["text_cfg"]
    return LstmTextConfig.model_validate(text_cfg) if "lstm" in text_cfg else None


def open_clip_config(config: dict[str, Any]) -> dict[str, Any]:
    """The architecture as plain open_clip builds it: with a text tower that refuses texts in the place of ours."""
    if text_config(config) is None:
        return config
    text_cfg = config["model_cfg"]["text_cfg"]
    stub = WITHOUT_WORDS | {"context_length": text_cfg["context_length"], "hf_tokenizer_name": "fitted"}
    return config | {"model_cfg": config["model_cfg"] | {"custom_text": True, "text_cfg": stub}}


def put_tower(network: nn.Module, config: dict[str, Any]) -> None:
    """Gives a network that open_clip built from `open_clip_config` its recurrent text tower, initialised at random."""
    if (text_cfg := text_config(config)) is not None:
        network.text = LstmTextTower(text_cfg, config["model_cfg"]["embed_dim"])


def split_weights(
    network: nn.Module, config: dict[str, Any]
) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor] | None]:
    """What goes into OpenCLIP's file and what into `text_tower/`; None where open_clip builds the text tower."""
    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in network.state_dict().items()}
    if text_config(config) is None:
        return weights, None
    from open_clip.model import CLIPTextCfg
    from open_clip.transformer import TextTransformer

    shape = CLIPTextCfg(**open_clip_config(config)["model_cfg"]["text_cfg"])
    keys = ("context_length", "vocab_size", "width", "heads", "layers")
    with torch.device("meta"):
        stub = TextTransformer(
            **{key: getattr(shape, key) for key in keys}, output_dim=config["model_cfg"]["embed_dim"]
        )
    plain = {name: tensor for name, tensor in weights.items() if not name.startswith("text.")}
    plain |= {f"text.{name}": torch.zeros(tensor.shape) for name, tensor in stub.state_dict().items()}
    return plain, {name.removeprefix("text."): each for name, each in weights.items() if name.startswith("text.")}


def save_tower(directory: Path, config: dict[str, Any], weights: dict[str, torch.Tensor]) -> None:
    """Writes `text_tower/` into a model's folder."""
    folder = directory / TEXT_TOWER
    folder.mkdir(parents=True, exist_ok=True)
    (folder / CONFIG).write_text(json.dumps(config["model_cfg"]["text_cfg"], indent=2) + "\n", encoding="utf-8")
    (folder / WEIGHTS).write_bytes(save(weights))


def saved_text_cfg(directory: Path) -> dict[str, Any] | None:
    """`text_cfg` of the recurrent text tower in a model's folder; None where there is none."""
    file = directory / TEXT_TOWER / CONFIG
    text_cfg: dict[str, Any] | None = json.loads(file.read_text(encoding="utf-8")) if file.exists() else None
    return text_cfg


def load_weights(network: Any, directory: Path) -> None:
    """Loads the text tower's weights from a model's folder. ValueError where they are missing or of another shape."""
    try:
        network.text.load_state_dict(read_tensors(directory / TEXT_TOWER / WEIGHTS))
    except (OSError, RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split())[:300]
        raise ValueError(f"{directory / TEXT_TOWER}: the text tower's weights can't be loaded: {reason}") from error
