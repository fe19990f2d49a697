"""A second image tower beside a dual encoder's own, for the items that look otherwise: a pseudo-Siamese network.

It is a submodule of open_clip's network, so that moving, training, checkpoints and the optimizer take it along, and it
is saved beside the OpenCLIP layout, where plain open_clip looks past it.
"""

# N = items, B = batch, C = colours, H = height, W = width, D = embedding

import copy
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from pydantic import BaseModel, Field
from safetensors.torch import load_file, save_file
from torch import nn

Mask = npt.NDArray[np.bool_]

PREFIX = "second.visual."
"""Of its weights' names in the network's state."""
FOLDER, WEIGHTS_NAME, ITEMS_NAME = "second_image_tower", "image_tower.safetensors", "items.json"
PLAIN_NETWORKS = ("CLIP", "CustomTextCLIP")


class SecondImageTowerConfig(BaseModel, frozen=True, extra="forbid", use_attribute_docstrings=True):
    """A second image tower, of the first one's architecture and with weights of its own; the text tower is shared."""

    column: str
    """Column of the items, mostly one of `columns.keep`, that says which tower encodes an item's image."""
    values: tuple[str, ...] = Field(min_length=1)
    """Items with one of these values take the second tower, all others the first. Numbers and booleans are compared as
    text; of a list, one value is enough."""
    seed: int | None = Field(default=None, ge=0)
    """Of its initial weights, where nothing is pretrained; none starts it as a copy of the first tower."""

    def takes(self, values: Sequence[object]) -> Mask:
        """Which items (N,) it encodes, by their values of the column."""
        return np.array([not set(as_texts(value)).isdisjoint(self.values) for value in values], dtype=bool)


def as_texts(value: object) -> list[str]:
    """A column's value as `values` are written."""
    if isinstance(value, list):
        return [text for each in value for text in as_texts(each)]
    if value is None:
        return []
    return [str(value).lower() if isinstance(value, bool) else str(value)]


def add_second_tower(network: nn.Module, of: nn.Module) -> None:
    """Gives `network` a second image tower: a copy of the first one of the network `of`, which may be the same."""
    if type(network).__name__ not in PLAIN_NETWORKS:
        raise ValueError(
            f"model.second_image_tower: a {type(network).__name__} needs its image tower for more than embeddings; "
            f"choose an architecture of {' or '.join(PLAIN_NETWORKS)}, or leave it out"
        )
    network.add_module("second", nn.ModuleDict({"visual": copy.deepcopy(of.get_submodule("visual"))}))


def encode_apart(network: Any, image_BCHW: torch.Tensor, second_B: torch.Tensor) -> torch.Tensor:
    """L2-normalised embeddings (B, D): by the second tower where `second_B` (bool) says so, else by the first."""
    rows = [torch.nonzero(second_B == second).flatten() for second in (False, True)]
    towers = (network.visual, network.get_submodule("second.visual"))
    found = [tower(image_BCHW[own]) for own, tower in zip(rows, towers, strict=True) if len(own)]
    embedding_BD: torch.Tensor = F.normalize(torch.cat(found)[torch.argsort(torch.cat(rows))], dim=-1)
    return embedding_BD


def save_second_tower(model: Path, items: SecondImageTowerConfig, weights: dict[str, torch.Tensor]) -> None:
    """Writes its weights (by their names in the tower) and which items it is for into a model's folder."""
    folder = model / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    save_file(weights, folder / WEIGHTS_NAME)
    # Where it started from is no part of what it is.
    content = items.model_dump(mode="json", exclude={"seed"})
    (folder / ITEMS_NAME).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def load_second_tower(model: Path, network: nn.Module) -> SecondImageTowerConfig | None:
    """Gives `network` the second tower of a model's folder; which items it is for, or None where there is none."""
    folder = model / FOLDER
    if not folder.is_dir():
        return None
    missing = [name for name in (ITEMS_NAME, WEIGHTS_NAME) if not (folder / name).is_file()]
    if missing:
        raise ValueError(f"{folder}: no {missing[0]}; a second image tower is {ITEMS_NAME} and {WEIGHTS_NAME}")
    add_second_tower(network, network)
    network.get_submodule("second.visual").load_state_dict(load_file(folder / WEIGHTS_NAME))
    return SecondImageTowerConfig.model_validate_json((folder / ITEMS_NAME).read_bytes())
