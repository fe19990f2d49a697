"""What is deployed of a pipeline: its night with its schedule, each stage and what keeps its house, each on a pool."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prefect.client.schemas.schedules import CronSchedule
from pydantic import ValidationError

from pairloom.flows.stamp import Stamp
from pairloom.tasks.pipeline import Pipeline

NIGHT = "nightly"
STAGES = ("ingest", "mine", "train", "evaluate", "refit", "embed", "publish")
UPKEEP = ("rollback", "collect_garbage", "verify")


@dataclass(frozen=True)
class Planned:
    """One deployment."""

    flow: str
    """Its name in `pairloom.flows.deployed`."""
    pipeline: Pipeline
    """With its paths as they are written."""
    work_pool: str
    schedule: CronSchedule | None
    file: Path | None = None
    """The file that the pipeline stands in, where it stands in one."""
    stamp: str = ""
    """What the file says of it."""

    @property
    def name(self) -> str:
        """As Prefect names it."""
        return f"{self.flow.replace('_', '-')}/{self.pipeline.name}"

    @property
    def parameters(self) -> dict[str, Any]:
        """What a run has where nobody says anything else."""
        return {**self.pipeline.parameters, "file": str(self.file) if self.file else None}

    @property
    def row(self) -> dict[str, str]:
        """For people."""
        schedule = f"{self.schedule.cron} {self.schedule.timezone}" if self.schedule else ""
        return {"deployment": self.name, "work_pool": self.work_pool, "schedule": schedule}


def pipelines_of(planned: Iterable[Planned]) -> list[Pipeline]:
    """Each pipeline once, in order."""
    return list({each.pipeline.name: each.pipeline for each in planned}.values())


def plan_file(file: Path, names: Iterable[str], root: Path | None = None) -> list[Planned]:
    """All of some pipelines of a file. Raises ValueError with one line for every fault."""
    # Misspelt keys are told of before anything else is.
    from pairloom.flows.config import written_pipeline

    found: list[Planned] = []
    for name in names:
        own = written_pipeline(file, name)
        pipeline = own if root is None else written_pipeline(file, name, root=root)
        found += plan_deployments([pipeline], file.resolve(), str(Stamp.of(own)))
    return found


def plan_deployments(pipelines: Sequence[Pipeline], file: Path | None = None, stamp: str = "") -> list[Planned]:
    """All of some pipelines, each one's night first. Raises ValueError for a schedule that means nothing.

    Flows are not made for it: Prefect takes long to describe their parameters.
    """
    return [
        Planned(
            flow=flow,
            pipeline=pipeline,
            work_pool=getattr(pipeline.workers, flow, None) or pipeline.workers.default,
            schedule=_schedule(pipeline) if flow == NIGHT else None,
            file=file,
            stamp=stamp,
        )
        for pipeline in pipelines
        for flow in (NIGHT, *STAGES, *UPKEEP)
        if flow != "refit" or pipeline.training.refit
    ]


def _schedule(pipeline: Pipeline) -> CronSchedule | None:
    schedule = pipeline.schedule
    if schedule is None:
        return None
    try:
        return CronSchedule(cron=schedule.cron, timezone=schedule.timezone)
    except ValidationError as error:
        fault = error.errors()[0]
        key, said = fault["loc"][0], fault["msg"].removeprefix("Value error, ")
        raise ValueError(f"pipeline {pipeline.name!r}: schedule.{key}: {said}") from error
