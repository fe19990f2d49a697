"""What is kept of the terms' configurations beside a model, read without waiting for torch."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

FOLDER, CONFIG = "objectives", "config.json"


def read_configs(model: Path) -> Mapping[str, dict[str, Any]]:
    """The configuration of the terms that kept something, by name; empty where none did."""
    file = model / FOLDER / CONFIG
    configs: dict[str, dict[str, Any]] = json.loads(file.read_bytes()) if file.exists() else {}
    return configs
