"""What terms keep beside a model: for prediction, or for the next night's warm start."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from pairloom.models.objectives.kept_configs import CONFIG, FOLDER
from pairloom.models.towers.tensors import read_tensors

STATE = "state.safetensors"


def write_kept(kept: Mapping[str, torch.Tensor], configs: Mapping[str, Mapping[str, Any]], model: Path) -> None:
    """Writes `objectives/` of a model's folder: tensors by `<term>.<name>`, and the configuration of their terms.

    Nothing where nothing is kept.
    """
    if kept:
        (model / FOLDER).mkdir(parents=True, exist_ok=True)
        save_file(dict(kept), model / FOLDER / STATE)
        (model / FOLDER / CONFIG).write_text(json.dumps(configs, indent=2) + "\n", encoding="utf-8")


def read_kept(model: Path) -> Mapping[str, torch.Tensor]:
    """What the terms of a model's training kept, by `<term>.<name>`; empty where none did."""
    file = model / FOLDER / STATE
    kept: dict[str, torch.Tensor] = read_tensors(file) if file.exists() else {}
    return kept
