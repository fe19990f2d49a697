"""Each stage on its own: from what the earlier stages left, for the command line and ad-hoc runs."""

from typing import TypeVar

from pydantic import BaseModel

from pairloom.flows.build import build, build_challenger
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
from pairloom.tasks.refit import refit as refit_challenger
from pairloom.tasks.refs import EmbeddingsRef, ModelRef, PairsRef, Plan, ReleaseRef, SnapshotRef, Verdict
from pairloom.tasks.settle import settle
from pairloom.tasks.train import train as train_challenger

R = TypeVar("R", bound=BaseModel)


def ingest(pipeline: Pipeline) -> SnapshotRef:
    """Read all sources and commit a snapshot of what is new."""
    return ingest_rows(pipeline)


def mine(pipeline: Pipeline) -> PairsRef:
    """Mine positive and negative pairs of the current snapshot."""
    pipeline = settle(pipeline)
    plan = _plan(pipeline)
    if plan.rival:
        embed_items(pipeline, plan.snapshot, plan.rival)
    return mine_pairs(pipeline, _admitted(pipeline, plan))


def train(pipeline: Pipeline) -> ModelRef:
    """Train a challenger from the mined pairs."""
    pipeline = settle(pipeline)
    plan = _plan(pipeline)
    return train_challenger(pipeline, plan, _left(pipeline, plan, "mine", PairsRef))


def evaluate(pipeline: Pipeline) -> Verdict:
    """Measure the challenger beside the champion, and let the gate decide."""
    pipeline = settle(pipeline)
    plan = _plan(pipeline)
    return _or_waiting(pipeline, plan, _measured(pipeline, plan))


def measure(pipeline: Pipeline) -> Verdict:
    """The same for a night, which asks a person only once it has seen the challenger's table."""
    pipeline = settle(pipeline)
    return _measured(pipeline, _plan(pipeline))


def refit(pipeline: Pipeline) -> Verdict:
    """Train the challenger that passed the gate further, on all items, as `training.refit` says."""
    pipeline = settle(pipeline)
    plan = _plan(pipeline)
    return _refitted(pipeline, plan, _left(pipeline, plan, verdict_name(pipeline), Verdict, after="evaluate"))


def embed(pipeline: Pipeline) -> EmbeddingsRef:
    """Embed the current snapshot: with the challenger if it passed the gate, else with the champion."""
    pipeline = settle(pipeline)
    plan = _plan(pipeline)
    model_id = _serving_model(pipeline, plan)
    if (measured := plan.measured(model_id, _verdict(pipeline, plan))) != model_id:
        embed_items(pipeline, plan.snapshot, measured)
    return embed_items(pipeline, plan.snapshot, model_id)


def publish(pipeline: Pipeline) -> ReleaseRef:
    """Build, check and release the vector table of the current snapshot."""
    pipeline = settle(pipeline)
    plan = _plan(pipeline)
    if plan.rival and plan.brings_rows:
        embed_items(pipeline, plan.snapshot, plan.rival)
    plan = _admitted(pipeline, plan)
    model_id, verdict = _serving_model(pipeline, plan), _verdict(pipeline, plan)
    passed = verdict if verdict and verdict.passed else None
    built = build_challenger(pipeline, plan, passed) if passed else build(pipeline, plan, verdict, model_id)
    if built.fit is None and passed:
        hold(pipeline, plan, built.verdict or passed, built.unfit)
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


def _left(pipeline: Pipeline, plan: Plan, name: str, kind: type[R], *, after: str = "") -> R:
    """What a stage left under a name, its own or `after` which it is."""
    ref, stage = Run(pipeline.folder, plan.run_id).read(name, kind), after or name
    if ref is None:
        raise ValueError(f"pipeline {pipeline.name!r}: `{stage}` has not run on this snapshot: run `pairloom {stage}`")
    return ref


def _verdict(pipeline: Pipeline, plan: Plan) -> Verdict | None:
    verdict = Run(pipeline.folder, plan.run_id).read(verdict_name(pipeline), Verdict)
    return verdict and _or_waiting(pipeline, plan, _refitted(pipeline, plan, verdict))


def _refitted(pipeline: Pipeline, plan: Plan, verdict: Verdict) -> Verdict:
    return refit_challenger(pipeline, plan, verdict) if verdict.passed and pipeline.training.refit else verdict


def _or_waiting(pipeline: Pipeline, plan: Plan, verdict: Verdict) -> Verdict:
    if not verdict.passed or pipeline.gate.approval != "person":
        return verdict
    return wait(pipeline, plan, _refitted(pipeline, plan, verdict))


def _serving_model(pipeline: Pipeline, plan: Plan) -> str:
    verdict = _verdict(pipeline, plan)
    model_id = verdict.serving if verdict and verdict.passed else plan.champion_model
    if model_id is None:
        why = f"is held: {verdict.reasons[0]}" if verdict else "has not been evaluated: run `pairloom evaluate`"
        raise ValueError(f"pipeline {pipeline.name!r} has no model to embed with: its first challenger {why}")
    return model_id
