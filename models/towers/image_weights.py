"""Gives a timm image tower the weights of a file that names them otherwise: in order, each of the shape it has."""

from pathlib import Path
from typing import Any

import torch

COUNTER = "num_batches_tracked"
"""What some files hold of batch normalisation, and others don't; nothing depends on it in evaluation mode."""


def load_image_weights(network: Any, file: Path) -> None:
    """Copies a torch file's tensors into the image tower's trunk, in place; a classifier at the file's end is left out.

    ValueError where the tensors that the trunk has aren't the file's first ones, shape by shape.
    """
    trunk = network.visual.trunk
    found = torch.load(file, map_location="cpu", weights_only=True)
    given = [tensor for name, tensor in found.items() if not name.endswith(COUNTER)]
    wanted = [tensor for name, tensor in trunk.state_dict().items() if not name.endswith(COUNTER)]
    shapes = [tensor.shape for tensor in given[: len(wanted)]]
    if shapes != [tensor.shape for tensor in wanted]:
        raise ValueError(f"{file} doesn't hold weights of a {type(trunk).__name__} like this one: its shapes differ")
    with torch.no_grad():
        for own, tensor in zip(wanted, given, strict=False):
            own.copy_(tensor)
