"""The champion that tonight's challenger may start from."""

import json
from pathlib import Path

from pairloom.storage.modelstore import ModelStore
from pairloom.tasks.pipeline import Pipeline


def fitting_champion(pipeline: Pipeline, model_id: str | None) -> Path | None:
    """The champion's folder where it has tonight's architecture and towers."""
    if model_id is None:
        return None
    champion = ModelStore(pipeline.folder).whole(model_id)
    made = json.loads((champion / "pairloom.json").read_bytes())["model"]
    # Locks, adapters and rates may change from night to night.
    wanted = pipeline.model.model_dump(mode="json", include={"architecture", "pretrained", "second_image_tower"})
    return champion if all(made.get(name) == value for name, value in wanted.items()) else None
