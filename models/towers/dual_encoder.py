"""The dual encoder at work, saved to and loaded from the OpenCLIP directory that plain `open_clip` reads."""

# B = batch, L = tokens, D = embedding

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save

from pairloom.models.towers import recurrent
from pairloom.models.towers.config import SecondImageTowerConfig
from pairloom.models.towers.layout import CONFIG_NAME, WEIGHTS_NAME, read_config, require_files, tokenizer_files
from pairloom.models.towers.opening import open_model, open_tokenizer
from pairloom.models.towers.second_tower import (
    PREFIX,
    encode_apart,
    load_second_tower,
    save_second_tower,
)
from pairloom.models.towers.text_end import TextEnd
from pairloom.models.towers.text_queries import differs_in_training, save_text_queries


@dataclass
class DualEncoder:
    """An image tower and a text tower with their tokenizer."""

    network: torch.nn.Module
    """open_clip's `CLIP` or `CustomTextCLIP`, whose text tower may be ours (`pairloom.models.towers.recurrent`)."""
    tokenizer: Any
    """open_clip's tokenizer: list of B texts → int64 (B, L)."""
    config: dict[str, Any]
    """`model_cfg` and `preprocess_cfg`, as in `open_clip_config.json`; with `text_cfg` of the text tower there is."""
    tokenizer_files: dict[str, bytes]
    """Files that the tokenizer is loaded from, kept as they came; none for open_clip's built-in tokenizer."""
    second: SecondImageTowerConfig | None = None
    """Which items the second image tower encodes, where there is one."""

    @property
    def image_towers(self) -> dict[str, torch.nn.Module]:
        """The image towers by the beginning of their weights' names in the network's state."""
        prefixes = ("visual.", PREFIX) if self.second else ("visual.",)
        return {prefix: self.network.get_submodule(prefix[:-1]) for prefix in prefixes}

    @property
    def device(self) -> torch.device:
        """Where the weights are, and so where inputs are moved to."""
        return next(self.network.parameters()).device

    @property
    def context_length(self) -> int:
        """Tokens a text is cut or padded to."""
        return int(self.tokenizer.context_length)

    @property
    def preprocess_cfg(self) -> dict[str, Any]:
        """open_clip's complete preprocessing settings, with the image size of the tower."""
        settings: dict[str, Any] = dict(self.network.visual.preprocess_cfg)  # type: ignore[union-attr,arg-type]
        return settings

    def encode_images(self, image_BCHW: torch.Tensor, second_B: torch.Tensor | None = None) -> torch.Tensor:
        """L2-normalised embeddings (B, D) of normalised pixels.

        `second_B` (bool) are the rows for the second image tower; none, or none to take them, leaves all to the first.
        """
        image_BCHW = image_BCHW.to(self.device)
        if self.second and second_B is not None:
            return encode_apart(self.network, image_BCHW, second_B.to(self.device))
        embedding_BD: torch.Tensor = self.network.encode_image(image_BCHW, normalize=True)  # type: ignore[operator]
        return embedding_BD

    def encode_texts(self, token_BL: torch.Tensor, *, normalize: bool = True) -> torch.Tensor:
        """Embeddings (B, D), L2-normalised if not otherwise said, of token ids, which may be trimmed by `trim`."""
        # open_clip's text tower adds all positions and the whole causal mask; give it as many as there are tokens. One
        # with a class token has a position more, and is never trimmed.
        token_BL = token_BL.to(self.device)
        length, shorter = token_BL.shape[1], {}
        for name in ("", "text."):
            module = self.network if not name else getattr(self.network, "text", None)
            positions = getattr(module, "positional_embedding", None)
            mask = getattr(module, "attn_mask", None)
            if positions is not None and mask is not None and length < self.context_length:
                shorter[f"network.{name}positional_embedding"] = positions[:length]
                shorter[f"network.{name}attn_mask"] = mask[:length, :length]
        texts = _TextSide(self.network)
        embedding_BD: torch.Tensor = torch.func.functional_call(texts, shorter, (token_BL, normalize))
        return embedding_BD

    def tokenize(self, texts: Sequence[str]) -> torch.Tensor:
        """Token ids, int64 (B, context_length)."""
        tokens: torch.Tensor = self.tokenizer(list(texts))
        return tokens

    def trim(self, token_BL: torch.Tensor) -> torch.Tensor:
        """The tokens cut to the longest text of the batch, where that can't change an embedding.

        Exact for a causal text tower that pools at the end-of-text token, and for a recurrent one: what comes after it
        is never looked at.
        """
        if (end := self.text_end) is None:
            return token_BL
        found_BL = token_BL if end.by == "largest" else torch.eq(token_BL, end.id).int()
        return token_BL[:, : int(found_BL.argmax(dim=1).max()) + 1]

    @property
    def text_end(self) -> TextEnd | None:
        """Where the text tower takes a text to end; none where it looks at all tokens."""
        return TextEnd.of(self.config["model_cfg"]["text_cfg"])

    def save(self, directory: Path) -> None:
        """Writes the OpenCLIP directory: config, weights, tokenizer. Equal encoders give equal bytes.

        A recurrent text tower, which open_clip can't build, and a second image tower go into folders of their own; a
        model whose image tower wants evaluation mode has a folder for readers who don't switch to it.
        """
        directory.mkdir(parents=True, exist_ok=True)
        config = recurrent.open_clip_config(self.config)
        (directory / CONFIG_NAME).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        weights, text_weights = recurrent.split_weights(self.network, self.config)
        own = {name: weights.pop(name) for name in list(weights) if self.second and name.startswith(PREFIX)}
        (directory / WEIGHTS_NAME).write_bytes(save(weights))
        if text_weights is not None:
            recurrent.save_tower(directory, self.config, text_weights)
        if self.second:
            save_second_tower(directory, self.second, {name.removeprefix(PREFIX): own[name] for name in own})
        for name, content in self.tokenizer_files.items():
            (directory / name).write_bytes(content)
        if text_weights is None and differs_in_training(self.image_towers["visual."]):
            save_text_queries(directory, config, weights, self.tokenizer_files)


class _TextSide(torch.nn.Module):
    """A network's texts as a module's call, which can be given other tensors for its time."""

    def __init__(self, network: torch.nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, token_BL: torch.Tensor, normalize: bool) -> torch.Tensor:
        """Embeddings (B, D)."""
        embedding_BD: torch.Tensor = self.network.encode_text(token_BL, normalize=normalize)  # type: ignore[operator]
        return embedding_BD


def load(directory: Path) -> DualEncoder:
    """The dual encoder of an OpenCLIP directory. ValueError where a file is missing."""
    require_files(directory)
    config = read_config(directory / CONFIG_NAME)
    if text_cfg := recurrent.saved_text_cfg(directory):
        config["model_cfg"]["text_cfg"] = text_cfg
    encoder = open_network(directory, config)
    if text_cfg:
        recurrent.load_weights(encoder.network, directory)
    encoder.second = load_second_tower(directory, encoder.network)
    encoder.network.eval()
    return encoder


def open_network(directory: Path, config: dict[str, Any]) -> DualEncoder:
    source = f"local-dir:{directory.resolve()}"
    network = open_model(source)
    recurrent.put_tower(network, config)
    return DualEncoder(
        network=network,
        tokenizer=open_tokenizer(source, recurrent.open_clip_config(config)["model_cfg"]["text_cfg"]),
        config=config,
        tokenizer_files=tokenizer_files(directory),
    )
