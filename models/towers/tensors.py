"""Tensors of a safetensors file, or one clear line about why there are none."""

from pathlib import Path
from typing import TYPE_CHECKING

from safetensors import SafetensorError

if TYPE_CHECKING:
    import torch


def read_tensors(file: Path) -> "dict[str, torch.Tensor]":
    """The tensors of `file` by their names. ValueError where it holds anything else."""
    from safetensors.torch import load_file

    try:
        found: dict[str, torch.Tensor] = load_file(file)
    except SafetensorError as error:
        raise no_tensors(file, error) from error
    return found


def no_tensors(file: Path, error: SafetensorError) -> ValueError:
    """What to raise where a file isn't made of tensors."""
    return ValueError(f"{file} holds no tensors that can be read: {error}")
