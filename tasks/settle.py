"""Settle: `architecture: auto` becomes an architecture, once for all nights."""

import logging
import zlib

import numpy as np
import pyarrow as pa

from pairloom.models.towers.choosing import AUTO, PICTURES, Choice, choose, flat_share, weights_installed
from pairloom.models.towers.config import FITTED, ModelConfig
from pairloom.storage.corpus import Corpus
from pairloom.storage.modelstore import ModelStore
from pairloom.storage.releases import release_log
from pairloom.tasks.pipeline import Pipeline

logger = logging.getLogger(__name__)


def settle(pipeline: Pipeline) -> Pipeline:
    """The pipeline with the architecture that was chosen for it: with its champion, or now, by its training pictures.

    One that names its architecture, or has no picture to choose by, comes back as it is.
    """
    if pipeline.model.architecture != AUTO:
        return pipeline
    choice = champions_choice(pipeline) or _choice(pipeline)
    return _chosen(pipeline, choice) if choice else pipeline


def champions_choice(pipeline: Pipeline) -> Choice | None:
    """What was chosen when the model was trained that is served; None where there is none, or it was named."""
    release = release_log(pipeline.folder).current()
    if release is None:
        return None
    try:
        made = ModelStore(pipeline.folder).lineage(release.measured)["model"]
        return Choice(made["architecture"], made["chosen"]) if made.get("chosen") else None
    except (OSError, ValueError, KeyError) as error:
        logger.warning("what was chosen for model %s can't be read: %s", release.measured, error)
        return None


def _choice(pipeline: Pipeline) -> Choice | None:
    # torch, for the one night that chooses.
    from pairloom.tasks.items import images_of

    corpus = Corpus(pipeline.folder)
    snapshot = corpus.current()
    rows = corpus.table(snapshot, ["item_id", "split"])
    ids = [row["item_id"] for row in rows.to_pylist() if row["split"] == "train"]
    if not ids:
        return None
    # Drawn by their ids, so that neither order nor parts have a say.
    drawn = sorted(ids, key=lambda item_id: (zlib.crc32(item_id.encode("utf-8", "surrogatepass")), item_id))[:PICTURES]
    shares = [flat_share(np.asarray(image)) for _, image in images_of(corpus, snapshot, pa.array(drawn, pa.string()))]
    choice = choose(shares, weights=weights_installed())
    logger.info("architecture: auto: %s, for %s", choice.architecture, choice.why)
    return choice


def _chosen(pipeline: Pipeline, choice: Choice) -> Pipeline:
    """What goes with an architecture takes the place of what has its default."""
    given = pipeline.model.model_dump(exclude_defaults=True) | {
        "architecture": choice.architecture,
        "chosen": choice.why,
    }
    training = pipeline.training
    fitted = FITTED.get(choice.architecture, {})
    training = training.model_copy(update={key: fitted[key] for key in fitted if getattr(training, key) is None})
    return pipeline.model_copy(update={"model": ModelConfig.model_validate(given), "training": training})
