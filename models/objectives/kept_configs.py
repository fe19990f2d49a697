"""What is kept of the terms' configurations beside a model, read without waiting for torch."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

FOLDER, CONFIG = "objectives", "config.json"
RERANKS = "cross_encoder"
"""The term that re-ranks."""


def read_configs(model: Path) -> Mapping[str, dict[str, Any]]:
    """The configuration of the terms that kept something, by name; empty where none did."""
    file = model / FOLDER / CONFIG
    configs: dict[str, dict[str, Any]] = json.loads(file.read_bytes()) if file.exists() else {}
    return configs


def reranker_config(model: Path) -> tuple[str, dict[str, Any]]:
    """Name and configuration of the cross-encoder that was kept beside a model; ValueError where there is none."""
    for name, written in read_configs(model).items():
        if written.get("loss") == RERANKS:
            return name, written
    raise ValueError(
        f"model {model.name} has no cross-encoder to re-rank with: add {{loss: cross_encoder}} to the "
        "pipeline's `objective:` and train"
    )
