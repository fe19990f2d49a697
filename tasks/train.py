"""Train: tonight's challenger, warm-started from the champion, from the mined pairs."""

from pairloom.storage.modelstore import ModelStore
from pairloom.storage.runs import Run
from pairloom.tasks.pipeline import Pipeline
from pairloom.tasks.refs import ModelRef, PairsRef, Plan
from pairloom.tasks.stage import stage


@stage()
def train(pipeline: Pipeline, plan: Plan, pairs: PairsRef) -> ModelRef:
    """Train a challenger and put it into the model store. A killed training goes on from its last checkpoint."""
    run, models = Run(pipeline.folder, plan.run_id), ModelStore(pipeline.folder)
    # One that was damaged since is made again, from the last checkpoint.
    if (done := run.read("train", ModelRef)) and (done.model_id is None or models.holds(done.model_id)):
        return done
    # torch, for a night that trains.
    from pairloom.tasks.training.challenger import train_challenger

    train_challenger(pipeline, plan, pairs)
    ref = run.read("train", ModelRef)
    assert ref is not None, "the first rank leaves it before it ends"
    return ref
