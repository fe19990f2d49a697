"""Whether two models have one image tower, as they do where a training locks it."""

from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from pairloom.models.towers.layout import CONFIG_NAME, WEIGHTS_NAME, read_config
from pairloom.models.towers.second_tower import FOLDER

IMAGE_TOWER = "visual."
"""How the names of its weights begin in open_clip's networks."""


def same_image_tower(first: Path, second: Path) -> bool:
    """Whether the models of two OpenCLIP folders embed images alike: weights, shape and preprocessing are equal.

    False where there are two image towers, or where the weights are in another file than those that Pairloom writes.
    """
    folders = (first, second)
    if any((folder / FOLDER).exists() or not (folder / WEIGHTS_NAME).is_file() for folder in folders):
        return False
    if _settings(first) != _settings(second):
        return False
    with safe_open(first / WEIGHTS_NAME, "pt") as one, safe_open(second / WEIGHTS_NAME, "pt") as other:
        names, others = ({name for name in each.keys() if name.startswith(IMAGE_TOWER)} for each in (one, other))  # noqa: SIM118  # safetensors' handle is no mapping
        return names == others and all(_equal(one.get_tensor(name), other.get_tensor(name)) for name in names)


def _settings(folder: Path) -> dict[str, Any]:
    """All that shapes a model but its text tower."""
    config = read_config(folder / CONFIG_NAME)
    model = {name: value for name, value in config["model_cfg"].items() if name != "text_cfg"}
    return {**config, "model_cfg": model}


def _equal(one: torch.Tensor, other: torch.Tensor) -> bool:
    return one.dtype == other.dtype and torch.equal(one, other)
