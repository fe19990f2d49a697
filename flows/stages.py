"""Each stage on its own: from what the earlier stages left, for the command line and ad-hoc runs."""

from typing import TypeVar

from pydantic import BaseModel

from pairloom.flows.build import build
from pairloom.flows.held import HeldError
from pairloom.storage.runs import Run
from pairloom.tasks.admit import admit
from pairloom.tasks.approval import wait
from pairloom.tasks.decide import decide, snapshot_ref, verdict_name
from pairloom.tasks.embed import embed as embed_items
from pairloom.tasks.evaluate import evaluate as evaluate_challenger
from pairloom.tasks.evaluate import hold
from pairloom.tasks.ingest import ingest as ingest_rows
from pairloom.tasks.mine import mine as mine_pairs
from pairloom.tasks.pipeline import Pipeline
from pairloom.tasks.publish import publish as publish_release
from pairloom.tasks.refs import EmbeddingsRef, ModelRef, PairsRef, Plan, ReleaseRef, SnapshotRef, Verdict
from pairloom.tasks.train import train as train_challenger

R = TypeVar("R", bound=BaseModel)


def ingest(pipeline: Pipeline) -> SnapshotRef:
    """Read all sources and commit a snapshot of what is new."""
    return ingest_rows(pipeline)


def mine(pipeline: Pipeline) -> PairsRef:
    """Mine positive and negative pairs of the current snapshot."""
    plan = _plan(pipeline)
    if plan.champion_model:
        embed_items(pipeline, plan.snapshot, plan.champion_model)
    return mine_pairs(pipeline, _admitted(pipeline, plan))


def train(pipeline: Pipeline) -> ModelRef:
    """Train a challenger from the mined pairs."""
    plan = _plan(pipeline)
    return train_challenger(pipeline, plan, _left(pipeline, plan, "mine", PairsRef))


def evaluate(pipeline: Pipeline) -> Verdict:
    """Measure the challenger beside the champion, and let the gate decide."""
    plan = _plan(pipeline)
    return _or_waiting(pipeline, plan, _measured(pipeline, plan))


def measure(pipeline: Pipeline) -> Verdict:
    """The same for a night, which asks a person only once it has seen the challenger's table."""
    return _measured(pipeline, _plan(pipeline))


def embed(pipeline: Pipeline) -> EmbeddingsRef:
    """Embed the current snapshot: with the challenger if it passed the gate, else with the champion."""
    plan = _plan(pipeline)
    return embed_items(pipeline, plan.snapshot, _serving_model(pipeline, plan))


def publish(pipeline: Pipeline) -> ReleaseRef:
    """Build, check and release the vector table of the current snapshot."""
    plan = _plan(pipeline)
    if plan.champion_model and plan.brings_rows:
        embed_items(pipeline, plan.snapshot, plan.champion_model)
    plan = _admitted(pipeline, plan)
    model_id, verdict = _serving_model(pipeline, plan), _verdict(pipeline, plan)
    built = build(pipeline, plan, verdict, model_id)
    if built.fit is None and verdict and verdict.model_id == model_id:
        hold(pipeline, plan, verdict, built.unfit)
    if built.fit is None:
        raise HeldError(f"model {model_id} is held, and nothing is published: {built.unfit}")
    return publish_release(pipeline, plan, built.fit)


def _plan(pipeline: Pipeline) -> Plan:
    return decide(pipeline, snapshot_ref(pipeline))


def _admitted(pipeline: Pipeline, plan: Plan) -> Plan:
    looked = plan.after(admit(pipeline, plan)) if plan.brings_rows else plan
    if looked.rows_held:
        raise HeldError(f"pipeline {pipeline.name!r}: the rows are held: {looked.reason}")
    return looked


def _measured(pipeline: Pipeline, plan: Plan) -> Verdict:
    return evaluate_challenger(pipeline, plan, _left(pipeline, plan, "train", ModelRef))


def _left(pipeline: Pipeline, plan: Plan, stage: str, kind: type[R]) -> R:
    ref = Run(pipeline.folder, plan.run_id).read(stage, kind)
    if ref is None:
        raise ValueError(f"pipeline {pipeline.name!r}: `{stage}` has not run on this snapshot: run `pairloom {stage}`")
    return ref


def _verdict(pipeline: Pipeline, plan: Plan) -> Verdict | None:
    verdict = Run(pipeline.folder, plan.run_id).read(verdict_name(pipeline), Verdict)
    return verdict and _or_waiting(pipeline, plan, verdict)


def _or_waiting(pipeline: Pipeline, plan: Plan, verdict: Verdict) -> Verdict:
    asks = verdict.passed and pipeline.gate.approval == "person"
    return wait(pipeline, plan, verdict) if asks else verdict


def _serving_model(pipeline: Pipeline, plan: Plan) -> str:
    verdict = _verdict(pipeline, plan)
    model_id = verdict.model_id if verdict and verdict.passed else plan.champion_model
    if model_id is None:
        why = f"is held: {verdict.reasons[0]}" if verdict else "has not been evaluated: run `pairloom evaluate`"
        raise ValueError(f"pipeline {pipeline.name!r} has no model to embed with: its first challenger {why}")
    return model_id
