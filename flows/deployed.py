"""The night, its stages and its upkeep as Prefect flows: what deployments name, and what runs here beside a server.

Each takes the pipeline as a form shows it, and the file that it was deployed from.
"""

from pathlib import Path
from typing import Annotated, Any, cast

from prefect import flow
from prefect.client.schemas.objects import State
from prefect.states import Completed, Failed
from pydantic import Field

from pairloom.flows import stages
from pairloom.flows.approval_form import answered, ask, follow
from pairloom.flows.cancelling import cancellable
from pairloom.flows.elsewhere import NoWorkerError
from pairloom.flows.nightly import nightly as run_night
from pairloom.flows.outcome import Night
from pairloom.flows.placement import UNFIT
from pairloom.flows.tonight import of_a_night, older, tonight
from pairloom.models.fitness import UnfitModelError
from pairloom.storage.escaping import plain
from pairloom.tasks.pipeline import Pipeline
from pairloom.tasks.refs import EmbeddingsRef, ModelRef, PairsRef, ReleaseRef, SnapshotRef, Verdict

NO_WORKER = "NoWorker"
"""Name of the state of a night that a work pool without a worker has ended."""

FromFile = Annotated[
    Path | None,
    Field(
        description="The file of pipelines that this was deployed from: relative paths start from its folder, and a "
        "run whose form was not edited follows it. A worker's PAIRLOOM_FILE and PAIRLOOM_ROOT say where both are there."
    ),
]


@flow(name="nightly", flow_run_name="nightly-{pipeline.name}")
@cancellable
def nightly(pipeline: Pipeline, file: FromFile = None) -> Night:
    """Run one night of one pipeline. What readers see changes in `publish` only, by one small record.

    One at a time: Prefect cancels a second one, "Deployment concurrency limit reached". A run whose challenger waits
    for a person is suspended, and begins anew here with the answer.
    """
    # Its pictures take the read side and matplotlib: `deploy` needs neither.
    from pairloom.flows.show.report import report

    pipeline = tonight(pipeline, file)
    answer = answered(pipeline.folder)
    try:
        night = follow(pipeline, answer) if answer else run_night(pipeline)
    except NoWorkerError as error:
        return cast(Night, Failed(name=NO_WORKER, message=plain(str(error))))
    report(pipeline, night)
    if answer is None:
        ask(pipeline)
    # Prefect unwraps a returned state: the flow's caller gets the night either way.
    return cast(Night, end_state(night))


@flow(name="ingest", flow_run_name="ingest-{pipeline.name}")
@cancellable
def ingest(pipeline: Pipeline, file: FromFile = None) -> SnapshotRef:
    """Read all sources and commit a snapshot of what is new."""
    return stages.ingest(tonight(pipeline, file))


@flow(name="mine", flow_run_name="mine-{pipeline.name}")
@cancellable
def mine(pipeline: Pipeline, file: FromFile = None) -> PairsRef:
    """Mine positive and negative pairs of the current snapshot."""
    return stages.mine(tonight(pipeline, file))


@flow(name="train", flow_run_name="train-{pipeline.name}")
@cancellable
def train(pipeline: Pipeline, file: FromFile = None) -> ModelRef:
    """Train a challenger from the mined pairs."""
    return stages.train(tonight(pipeline, file))


@flow(name="evaluate", flow_run_name="evaluate-{pipeline.name}")
@cancellable
def evaluate(pipeline: Pipeline, file: FromFile = None) -> Verdict:
    """Measure the challenger beside the champion, and let the gate decide."""
    pipeline = tonight(pipeline, file)
    return stages.measure(pipeline) if of_a_night() else stages.evaluate(pipeline)


@flow(name="refit", flow_run_name="refit-{pipeline.name}")
@cancellable
def refit(pipeline: Pipeline, file: FromFile = None) -> Verdict:
    """Train the challenger that passed the gate further, on all items, as `training.refit` says."""
    return stages.refit(tonight(pipeline, file))


@flow(name="embed", flow_run_name="embed-{pipeline.name}")
@cancellable
def embed(pipeline: Pipeline, file: FromFile = None) -> EmbeddingsRef:
    """Embed the current snapshot: with the challenger if it passed the gate, else with the champion."""
    try:
        return stages.embed(tonight(pipeline, file))
    except UnfitModelError as error:
        return cast(EmbeddingsRef, unfit_state(error))


@flow(name="publish", flow_run_name="publish-{pipeline.name}")
@cancellable
def publish(pipeline: Pipeline, file: FromFile = None) -> ReleaseRef:
    """Build, check and release the vector table of the current snapshot."""
    return stages.publish(tonight(pipeline, file))


@flow(name="rollback", flow_run_name="rollback-{pipeline.name}-to-{release}")
@cancellable
def rollback(
    release: Annotated[int, Field(ge=1, description="The release to go back to.")],
    pipeline: Pipeline,
    file: FromFile = None,
) -> int:
    """Serve an earlier release again: a new record that names its content."""
    from pairloom.storage.releases import roll_back

    made = roll_back(tonight(pipeline, file).folder, release)
    return cast(int, Completed(message=f"release {made.number}: {made.reason}", data=made.number))


@flow(name="collect-garbage", flow_run_name="collect-garbage-{pipeline.name}")
@cancellable
def collect_garbage(
    pipeline: Pipeline,
    dry_run: Annotated[bool, Field(description="Only say what would go.")] = False,
    file: FromFile = None,
) -> dict[str, Any]:
    """Delete what no kept release, snapshot or run needs any more, as the end of each night does."""
    from pairloom.tasks.collect import collect_now, collected, would_collect
    from pairloom.tasks.decide import training_digest

    pipeline = tonight(pipeline, file)
    found = would_collect(pipeline) if dry_run else collect_now(pipeline, training_digest(pipeline))
    said = ("would go: " if dry_run else "") + collected(found).summary
    return cast(dict[str, Any], Completed(message=plain(said), data=found.model_dump(mode="json")))


@flow(name="verify", flow_run_name="verify-{pipeline.name}")
@cancellable
def verify(
    pipeline: Pipeline,
    repair: Annotated[bool, Field(description="Make again what can be made again from what is whole.")] = False,
    file: FromFile = None,
) -> dict[str, Any]:
    """Read everything that is kept, and tell what is damaged and what can be done."""
    from pairloom.flows.upkeep import mended, state

    pipeline = tonight(pipeline, file)
    found = mended(pipeline) if repair else state(pipeline)
    wrong = [f"{each['path']} {each['wrong']}: {each['remedy']}" for each in found["findings"]]
    said = (
        "; ".join([*wrong, *(f"mended: {path}" for path in found["repaired"])]) or f"{found['files']:,} files are whole"
    )
    ended = Completed if found["whole"] else Failed
    return cast(dict[str, Any], ended(message=plain(said), data=found))


def unfit_state(error: UnfitModelError) -> State[UnfitModelError]:
    """The Prefect state that a stage of an unfit model ends in: failed, and told to the night that waits for it."""
    return Failed(name=UNFIT, message=plain(str(error)), data=error)


def end_state(night: Night) -> State[Night]:
    """The Prefect state a night ends in: of type Completed, and where nothing was released named after that."""
    name = "Completed" if night.outcome == "released" else night.outcome.capitalize()
    release = f"release {night.release}: " if night.release else ""
    message = "; ".join(filter(None, [f"{release}{night.reason}", older()]))
    return Completed(name=name, message=plain(message), data=night)
