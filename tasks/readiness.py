"""What a training needs beside the items, told before a night reads anything."""

from importlib.util import find_spec

from pairloom.models.objectives.config import TripletConfig
from pairloom.models.towers.choosing import AUTO
from pairloom.models.towers.config import WordVectorsConfig
from pairloom.models.towers.names import require_towers
from pairloom.storage.approvals import last_approval
from pairloom.storage.releases import release_log
from pairloom.tasks.decide import change_reason, last_tried, training_digest
from pairloom.tasks.engine.cluster import require_engine
from pairloom.tasks.pipeline import Pipeline
from pairloom.tasks.training.champion import fitting_champion


def require_readiness(pipeline: Pipeline) -> None:
    """Raises ValueError, in one line with the fix, where tonight trains whatever the sources bring and would fail; and
    ConnectionError where its Ray cluster doesn't answer.

    A night that may not train is let through: it serves new rows without what the next training lacks.
    """
    require_engine(pipeline.engine)
    release = release_log(pipeline.folder).current()
    last = last_tried(release, last_approval(pipeline.folder))
    if change_reason(pipeline, last, training_digest(pipeline)):
        require_extras(pipeline)
        # What `auto` becomes needs nothing but what is there.
        if (
            pipeline.model.architecture != AUTO
            and fitting_champion(pipeline, release.measured if release else None) is None
        ):
            require_towers(pipeline.model)


def require_extras(pipeline: Pipeline) -> None:
    """Raises ValueError where a package that the configuration needs is not installed."""
    triplets = any(isinstance(objective, TripletConfig) for objective in pipeline.objective)
    learned = isinstance(pipeline.model.word_vectors, WordVectorsConfig)
    wanted = (
        (pipeline.model.lora, "model.lora", "peft", "peft", "lora"),
        (learned, "model.word_vectors", "gensim", "gensim", "objectives"),
        (pipeline.mining.distances, "mining.distances", "ot", "POT", "objectives"),
        (triplets, "objective: loss: triplet", "pytorch_metric_learning", "pytorch-metric-learning", "objectives"),
        (pipeline.training.tensorboard, "training.tensorboard", "tensorboard", "tensorboard", "tensorboard"),
    )
    for asked, key, module, package, extra in wanted:
        if asked and find_spec(module) is None:
            raise ValueError(f"{key} needs {package}, which isn't installed: pip install 'pairloom[{extra}]'")
