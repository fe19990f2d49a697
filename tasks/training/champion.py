"""The champion that tonight's challenger may start from."""

import contextlib
import logging
from pathlib import Path
from typing import Any

from pairloom.models.towers.identity import by_content
from pairloom.storage.modelstore import ModelStore
from pairloom.storage.releases import release_log
from pairloom.tasks.pipeline import Pipeline

logger = logging.getLogger(__name__)

TOWERS = ("architecture", "pretrained", "second_image_tower")
"""What of `model:` a model's towers are made by."""


def fitting_champion(pipeline: Pipeline, model_id: str | None) -> Path | None:
    """The champion's folder where it has tonight's architecture and towers, as far as its lineage can be read.

    None with `closed_form_start`: fitting tonight's items anew costs seconds, and knows all of their words.
    """
    if model_id is None or pipeline.model.closed_form_start:
        return None
    models = ModelStore(pipeline.folder)
    champion = models.whole(model_id)
    try:
        lineage = models.lineage(model_id)
        # Models that are older than `towers` name files by their paths.
        made = lineage["towers"] if "towers" in lineage else lineage["model"]
    except (OSError, ValueError, KeyError) as error:
        logger.warning("no challenger starts from model %s, whose lineage can't be read: %s", model_id, error)
        return None
    # Locks, adapters and rates may change from night to night.
    wanted = by_content(pipeline.model, lineage)
    return champion if all(made.get(name) == wanted[name] for name in TOWERS) else None


def towers(pipeline: Pipeline) -> dict[str, Any]:
    """What `model:` says, by what its files hold; of files that are gone, by what the champion was made of."""
    release = release_log(pipeline.folder).current()
    lineage: dict[str, Any] = {}
    if release:
        with contextlib.suppress(OSError, ValueError):
            lineage = ModelStore(pipeline.folder).lineage(release.model_id)
    return by_content(pipeline.model, lineage)
