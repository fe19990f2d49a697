"""What a model's folder says of how it was made."""

from pathlib import Path
from typing import Any

from pairloom.storage.modelstore import ModelStore


def model_facts(folder: Path, model_id: str) -> dict[str, Any]:
    """What `pairloom.json` says of a model; nothing where it is gone or damaged: no reader needs it."""
    try:
        return ModelStore(folder).lineage(model_id)
    except (OSError, ValueError):
        return {}
