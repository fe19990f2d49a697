"""What is deployed of a pipeline: its night with its schedule, then each stage for ad-hoc runs, each on a work pool."""

from collections.abc import Sequence
from dataclasses import dataclass

from prefect.client.schemas.schedules import CronSchedule
from pydantic import ValidationError

from pairloom.flows.nightly import nightly
from pairloom.flows.stages import STAGES, refit
from pairloom.tasks.pipeline import Pipeline


@dataclass(frozen=True)
class Planned:
    """One deployment."""

    flow: str
    """Its name in `pairloom.flows.deployed`."""
    pipeline: Pipeline
    work_pool: str
    schedule: CronSchedule | None

    @property
    def row(self) -> dict[str, str]:
        """For people."""
        schedule = f"{self.schedule.cron} {self.schedule.timezone}" if self.schedule else ""
        name = f"{self.flow}/{self.pipeline.name}"
        return {"deployment": name, "work_pool": self.work_pool, "schedule": schedule}


def plan_deployments(pipelines: Sequence[Pipeline]) -> list[Planned]:
    """All of some pipelines, each one's night first. Raises ValueError for a schedule that means nothing.

    Flows are not made for it: Prefect takes long to describe their parameters.
    """
    return [
        Planned(
            flow=function.__name__,
            pipeline=pipeline,
            work_pool=getattr(pipeline.workers, function.__name__, None) or pipeline.workers.default,
            schedule=_schedule(pipeline) if function is nightly else None,
        )
        for pipeline in pipelines
        for function in (nightly, *STAGES)
        if function is not refit or pipeline.training.refit
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
