"""The night and its stages as Prefect flows: what deployments name, and what runs here where a server is configured."""

from typing import cast

from prefect import flow
from prefect.client.schemas.objects import State
from prefect.states import Completed, Failed

from pairloom.flows import stages
from pairloom.flows.approval_form import answered, ask, follow
from pairloom.flows.cancelling import cancellable
from pairloom.flows.nightly import nightly as run_night
from pairloom.flows.outcome import Night
from pairloom.flows.placement import UNFIT
from pairloom.models.fitness import UnfitModelError
from pairloom.storage.escaping import plain
from pairloom.tasks.pipeline import Pipeline
from pairloom.tasks.refs import EmbeddingsRef, ModelRef, PairsRef, ReleaseRef, SnapshotRef, Verdict


@flow(name="nightly", flow_run_name="nightly-{pipeline.name}")
@cancellable
def nightly(pipeline: Pipeline) -> Night:
    """Run one night of one pipeline. What readers see changes in `publish` only, by one small record.

    A run whose challenger waits for a person is suspended, and begins anew here with the answer.
    """
    # Its pictures take the read side and matplotlib: `deploy` needs neither.
    from pairloom.flows.show.report import report

    answer = answered(pipeline.folder)
    night = follow(pipeline, answer) if answer else run_night(pipeline)
    report(pipeline, night)
    if answer is None:
        ask(pipeline)
    # Prefect unwraps a returned state: the flow's caller gets the night either way.
    return cast(Night, end_state(night))


@flow(name="ingest", flow_run_name="ingest-{pipeline.name}")
@cancellable
def ingest(pipeline: Pipeline) -> SnapshotRef:
    """Read all sources and commit a snapshot of what is new."""
    return stages.ingest(pipeline)


@flow(name="mine", flow_run_name="mine-{pipeline.name}")
@cancellable
def mine(pipeline: Pipeline) -> PairsRef:
    """Mine positive and negative pairs of the current snapshot."""
    return stages.mine(pipeline)


@flow(name="train", flow_run_name="train-{pipeline.name}")
@cancellable
def train(pipeline: Pipeline) -> ModelRef:
    """Train a challenger from the mined pairs."""
    return stages.train(pipeline)


@flow(name="evaluate", flow_run_name="evaluate-{pipeline.name}")
@cancellable
def evaluate(pipeline: Pipeline) -> Verdict:
    """Measure the challenger beside the champion, and let the gate decide."""
    return stages.evaluate(pipeline)


@flow(name="refit", flow_run_name="refit-{pipeline.name}")
def refit(pipeline: Pipeline) -> Verdict:
    """Train the challenger that passed the gate further, on all items, as `training.refit` says."""
    return stages.refit(pipeline)


@flow(name="embed", flow_run_name="embed-{pipeline.name}")
@cancellable
def embed(pipeline: Pipeline) -> EmbeddingsRef:
    """Embed the current snapshot: with the challenger if it passed the gate, else with the champion."""
    try:
        return stages.embed(pipeline)
    except UnfitModelError as error:
        return cast(EmbeddingsRef, unfit_state(error))


@flow(name="publish", flow_run_name="publish-{pipeline.name}")
@cancellable
def publish(pipeline: Pipeline) -> ReleaseRef:
    """Build, check and release the vector table of the current snapshot."""
    return stages.publish(pipeline)


def unfit_state(error: UnfitModelError) -> State[UnfitModelError]:
    """The Prefect state that a stage of an unfit model ends in: failed, and told to the night that waits for it."""
    return Failed(name=UNFIT, message=plain(str(error)), data=error)


def end_state(night: Night) -> State[Night]:
    """The Prefect state a night ends in: of type Completed, and where nothing was released named after that."""
    name = "Completed" if night.outcome == "released" else night.outcome.capitalize()
    release = f"release {night.release}: " if night.release else ""
    return Completed(name=name, message=plain(f"{release}{night.reason}"), data=night)
