"""What terms keep beside a model: for prediction, or for the next night's warm start."""

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

FOLDER, STATE = "objectives", "state.safetensors"


def write_kept(kept: Mapping[str, torch.Tensor], model: Path) -> None:
    """Writes `objectives/` of a model's folder; nothing where nothing is kept."""
    if kept:
        (model / FOLDER).mkdir(parents=True, exist_ok=True)
        save_file(dict(kept), model / FOLDER / STATE)


def read_kept(model: Path) -> Mapping[str, torch.Tensor]:
    """What the terms of a model's training kept, by `<term>.<name>`; empty where none did."""
    file = model / FOLDER / STATE
    kept: dict[str, torch.Tensor] = load_file(file) if file.exists() else {}
    return kept
