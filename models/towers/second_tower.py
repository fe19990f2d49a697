"""A second image tower beside a dual encoder's own, for the items that look otherwise: a pseudo-Siamese network.

It is a submodule of open_clip's network, so that moving, training, checkpoints and the optimizer take it along, and it
is saved beside the OpenCLIP layout, where plain open_clip looks past it.
"""

# N = items, B = batch, C = colours, H = height, W = width, D = embedding

import copy
import json
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import nn

from pairloom.models.towers.config import SecondImageTowerConfig
from pairloom.models.towers.tensors import read_tensors

PREFIX = "second.visual."
"""Of its weights' names in the network's state."""
FOLDER, WEIGHTS_NAME, ITEMS_NAME = "second_image_tower", "image_tower.safetensors", "items.json"
PLAIN_NETWORKS = ("CLIP", "CustomTextCLIP")


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
    network.get_submodule("second.visual").load_state_dict(read_tensors(folder / WEIGHTS_NAME))
    return SecondImageTowerConfig.model_validate_json((folder / ITEMS_NAME).read_bytes())
