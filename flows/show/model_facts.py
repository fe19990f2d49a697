"""What a model's folder says of how it was made."""

import json
from pathlib import Path
from typing import Any


def model_facts(folder: Path, model_id: str) -> dict[str, Any]:
    """What `pairloom.json` says of a model; nothing where it is gone or damaged: no reader needs it."""
    try:
        facts = json.loads((folder / "models" / model_id / "pairloom.json").read_bytes())
    except (OSError, ValueError):
        return {}
    return facts if isinstance(facts, dict) else {}
