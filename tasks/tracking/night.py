"""What is told of a night: one run with its settings, its training step by step, its metrics and how it ended."""

import math

from pydantic import BaseModel

from pairloom.models.evaluation.slices import overall
from pairloom.storage.local_copies import beside
from pairloom.storage.modelstore import ModelStore
from pairloom.storage.secrets import redacted
from pairloom.tasks.lineage import flat_config
from pairloom.tasks.pipeline import Pipeline
from pairloom.tasks.refs import Plan, ReleaseRef, Verdict
from pairloom.tasks.tracking.config import TrackingConfig
from pairloom.tasks.version import version


class TrackedNight(BaseModel, frozen=True):
    """A run, as every tracker is told it."""

    tracking: TrackingConfig
    pipeline: str
    folder: str
    """Where what is to be sent later may be left."""
    name: str
    settings: dict[str, str]
    """The configuration, by keys as after `--set`; no secret."""
    training: list[dict[str, float]]
    """What the training said of itself, about a line a second, each with its `step`."""
    metrics: dict[str, float]
    """Of the challenger, over all queries."""
    tags: dict[str, str]


def tracked_night(pipeline: Pipeline, plan: Plan, verdict: Verdict, release: ReleaseRef | None) -> TrackedNight:
    """Tonight's run. Slices aren't told: a tracker makes a page of each name."""
    mine = release is not None and release.model_id == verdict.model_id
    tags = {
        "pipeline": pipeline.name,
        "model_id": verdict.model_id or "",
        "parent": plan.champion_model or "",
        "snapshot": str(plan.snapshot),
        "verdict": "passed" if verdict.passed else "held",
        "released": str(mine).lower(),
        "release": str(release.number) if release and mine else "",
        "reason": redacted("; ".join(verdict.reasons) or plan.reason),
        "version": version(),
    }
    curve = ModelStore(pipeline.folder).curve(verdict.model_id) if verdict.model_id else []
    return TrackedNight(
        tracking=pipeline.tracking,
        pipeline=pipeline.name,
        folder=str(beside(pipeline.root)),
        name=f"{pipeline.name} {verdict.model_id or 'unfit'}",
        settings={key: str(value) for key, value in flat_config(pipeline).items()},
        training=[{name: value for name, value in line.items() if math.isfinite(value)} for line in curve],
        metrics={name: value for name, value in overall(verdict.metrics).items() if math.isfinite(value)},
        tags={name: value for name, value in tags.items() if value},
    )
