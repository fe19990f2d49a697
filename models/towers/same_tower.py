"""Whether two models have one image tower, or one text tower, as they do where a training locks it."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from pairloom.models.towers.layout import CONFIG_NAME, WEIGHTS_NAME, read_config, tokenizer_files
from pairloom.models.towers.recurrent import TEXT_TOWER, WEIGHTS, saved_text_cfg
from pairloom.models.towers.second_tower import FOLDER

IMAGE_TOWER = "visual."
"""How the names of its weights begin in open_clip's networks."""
LOSS = ("logit_scale", "logit_bias")
"""Weights that belong to no tower."""


def same_image_tower(first: Path, second: Path) -> bool:
    """Whether the models of two OpenCLIP folders embed images alike: weights, shape and preprocessing are equal.

    False where there are two image towers, or where the weights are in another file than those that Pairloom writes.
    """
    if any((folder / FOLDER).exists() for folder in (first, second)):
        return False
    return _settings(first, but="text_cfg") == _settings(second, but="text_cfg") and _same_weights(
        first, second, lambda name: name.startswith(IMAGE_TOWER)
    )


def same_text_tower(first: Path, second: Path) -> bool:
    """Whether the models of two OpenCLIP folders embed texts alike: weights, shape and tokenizer are equal.

    False where the weights are in another file than those that Pairloom writes.
    """
    if _text_settings(first) != _text_settings(second) or tokenizer_files(first) != tokenizer_files(second):
        return False
    return _same_weights(first, second, lambda name: not name.startswith((IMAGE_TOWER, *LOSS)))


def _settings(folder: Path, but: str) -> dict[str, Any]:
    """All that shapes a model but one tower."""
    config = read_config(folder / CONFIG_NAME)
    model = {name: value for name, value in config["model_cfg"].items() if name != but}
    return {**config, "model_cfg": model}


def _text_settings(folder: Path) -> list[Any]:
    return [_settings(folder, but="vision_cfg")["model_cfg"], saved_text_cfg(folder)]


def _same_weights(first: Path, second: Path, of_tower: Callable[[str], bool]) -> bool:
    """Whether all tensors are equal whose names are of a tower."""
    for name in (WEIGHTS_NAME, f"{TEXT_TOWER}/{WEIGHTS}"):
        one, other = first / name, second / name
        if not (one.is_file() or other.is_file()) and name != WEIGHTS_NAME:
            continue
        if not (one.is_file() and other.is_file() and _same_tensors(one, other, of_tower)):
            return False
    return True


def _same_tensors(first: Path, second: Path, of_tower: Callable[[str], bool]) -> bool:
    with ExitStack() as stack:
        one, other = (stack.enter_context(safe_open(file, "pt")) for file in (first, second))

        def names(each: Any) -> Iterator[str]:
            return (name for name in each.keys() if of_tower(name))  # noqa: SIM118  # safetensors' handle is no mapping

        own = set(names(one))
        return own == set(names(other)) and all(_equal(one.get_tensor(name), other.get_tensor(name)) for name in own)


def _equal(one: torch.Tensor, other: torch.Tensor) -> bool:
    return one.dtype == other.dtype and torch.equal(one, other)
