"""A folder beside a model's for readers who never call `eval()`: it embeds texts, and refuses images.

LanceDB's `open-clip` function leaves a model in training mode, where batch normalisation and dropout make other vectors
of an image than those that are stored. The folder has the text tower, and an image tower that no image fits into.
"""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import nn

from pairloom.models.towers.layout import CONFIG_NAME, WEIGHTS_NAME

FOLDER = "text_queries"
_NO_IMAGE = {"image_size": 8, "patch_size": 16, "width": 8, "layers": 1, "head_width": 8, "mlp_ratio": 1.0}
"""Of a vision transformer whose only patch is larger than any image that it is given: torch says so, and stops."""


def differs_in_training(tower: nn.Module) -> bool:
    """Whether a tower embeds otherwise in training mode than in evaluation mode."""
    layers = (nn.modules.batchnorm._BatchNorm, nn.modules.dropout._DropoutNd)
    return any(
        isinstance(module, layers) and not (isinstance(module, nn.modules.dropout._DropoutNd) and module.p == 0)
        for module in tower.modules()
    )


def save_text_queries(
    model: Path, config: dict[str, Any], weights: dict[str, torch.Tensor], tokenizer: dict[str, bytes]
) -> None:
    """Writes the folder into a model's; configuration, weights and files of the tokenizer are the model's own."""
    from open_clip.transformer import VisionTransformer

    dimension = config["model_cfg"]["embed_dim"]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        tower = VisionTransformer(8, 16, 8, 1, 1, 1.0, output_dim=dimension)
    kept = {name: tensor for name, tensor in weights.items() if not name.startswith("visual.")}
    kept |= {f"visual.{name}": tensor.contiguous() for name, tensor in tower.state_dict().items()}
    changed = {**config, "model_cfg": {**config["model_cfg"], "vision_cfg": _NO_IMAGE}}
    files = {CONFIG_NAME: (json.dumps(changed, indent=2) + "\n").encode(), WEIGHTS_NAME: save(kept), **tokenizer}
    (model / FOLDER).mkdir(exist_ok=True)
    for name, content in files.items():
        (model / FOLDER / name).write_bytes(content)
