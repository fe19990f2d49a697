"""Deployments on a Prefect server: which of them a file of pipelines made, and how they become what it says."""

from collections.abc import Collection, Iterable, Iterator
from itertools import count
from typing import Any, Literal
from uuid import UUID

from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.actions import DeploymentScheduleCreate, DeploymentUpdate
from prefect.client.schemas.filters import (
    DeploymentFilter,
    DeploymentFilterTags,
    FlowRunFilter,
    FlowRunFilterDeploymentId,
    FlowRunFilterState,
    FlowRunFilterStateType,
    FlowRunFilterTags,
)
from prefect.client.schemas.objects import StateType
from prefect.client.schemas.responses import DeploymentResponse
from prefect.client.schemas.schedules import CronSchedule
from prefect.exceptions import ObjectNotFound

from pairloom.flows.run_tags import OURS

LEFT = "left-the-file"
"""Tag of what is paused because its pipeline is no longer in the file."""
PAGE = 200

Change = Literal["created", "updated", "unchanged", "paused", "deleted"]


class Registry:
    """What a server has of one file's deployments."""

    def __init__(self, client: SyncPrefectClient, file: str | None) -> None:
        self._client = client
        self._file = file
        self._flows: dict[UUID, str] = {}
        self._ours = {self._name(each): each for each in _tagged(client)}

    def refused(self, names: Iterable[str], *, take_over: bool) -> str:
        """Why some of the deployments are not for this file to change, in a sentence; empty where all are.

        `take_over` has it change those of other files.
        """
        for name in names:
            own = self._ours.get(name)
            if own is None and self._exists(name):
                return f"the deployment {name} is not Pairloom's: rename the pipeline, or the other deployment"
            made_by = own.parameters.get("file") if own else None
            if made_by and self._file and made_by != self._file and not take_over:
                return (
                    f"the deployment {name} is of {made_by}: rename the pipeline, or hand it over to {self._file} "
                    "with `pairloom deploy --take-over`"
                )
        return ""

    def put(
        self, full_name: str, content: dict[str, Any], schedule: CronSchedule | None, environment: dict[str, str]
    ) -> Change:
        """Have a deployment be as `content` says, its runs' `environment` in its job variables.

        What people have paused on the server stays so, and so do their job variables, of the environment too.
        """
        found, schedules = self._ours.get(full_name), [schedule] if schedule else []
        if found is None:
            flow, _, name = full_name.partition("/")
            flow_id = self._client.create_flow_from_name(flow)
            new = [DeploymentScheduleCreate(schedule=each) for each in schedules]
            variables = {"env": environment}
            self._client.create_deployment(flow_id, name, schedules=new, job_variables=variables, **content)
            return "created"
        changed = {key: value for key, value in content.items() if _was(found, key) != value}
        if _times(each.schedule for each in found.schedules) != _times(schedules):
            active = not found.schedules or any(each.active for each in found.schedules)
            changed["schedules"] = [{"schedule": each.model_dump(mode="json"), "active": active} for each in schedules]
        given = found.job_variables or {}
        if not environment.keys() <= (given.get("env") or {}).keys():
            changed["job_variables"] = {**given, "env": {**environment, **(given.get("env") or {})}}
        # By us, or by `pairloom serve`, which has no work pool, as it ended.
        if found.paused and (LEFT in found.tags or not found.work_pool_name):
            changed["paused"] = False
        if not changed:
            return "unchanged"
        self._client.update_deployment(found.id, DeploymentUpdate(**changed))
        return "updated"

    def left(self, pipelines: Collection[str], wanted: Collection[str]) -> list[DeploymentResponse]:
        """What was made for this file, of pipelines that it no longer has or of flows that there are no longer."""
        flows = {name.partition("/")[0] for name in wanted}
        return [
            each
            for name, each in sorted(self._ours.items())
            if self._file
            and each.parameters.get("file") == self._file
            and (each.name not in pipelines or name.partition("/")[0] not in flows)
        ]

    def pause(self, left: DeploymentResponse) -> Change:
        """Start nothing of it any more, nor what a scheduler that was amid its round has planned all the same."""
        paused = LEFT in left.tags
        if not paused:
            self._client.update_deployment(left.id, DeploymentUpdate(paused=True, tags=[*left.tags, LEFT]))
        planned = FlowRunFilter(
            deployment_id=FlowRunFilterDeploymentId(any_=[left.id]),
            state=FlowRunFilterState(type=FlowRunFilterStateType(any_=[StateType.SCHEDULED])),
            tags=FlowRunFilterTags(all_=["auto-scheduled"]),
        )
        for run in self._client.read_flow_runs(flow_run_filter=planned):
            self._client.delete_flow_run(run.id)
        return "unchanged" if paused else "paused"

    def delete(self, left: DeploymentResponse) -> Change:
        """Forget it; the server keeps the runs that it had."""
        self._client.delete_deployment(left.id)
        return "deleted"

    def row(self, left: DeploymentResponse, change: Change) -> dict[str, str]:
        """For people."""
        name, pool = self._name(left), left.work_pool_name or ""
        return {"deployment": name, "work_pool": pool, "schedule": "", "change": change}

    def _name(self, found: DeploymentResponse) -> str:
        if found.flow_id not in self._flows:
            self._flows[found.flow_id] = self._client.read_flow(found.flow_id).name
        return f"{self._flows[found.flow_id]}/{found.name}"

    def _exists(self, name: str) -> bool:
        try:
            self._client.read_deployment_by_name(name)
        except ObjectNotFound:
            return False
        return True


def _tagged(client: SyncPrefectClient) -> Iterator[DeploymentResponse]:
    """All that any Pairloom deployed."""
    ours = DeploymentFilter(tags=DeploymentFilterTags(all_=[OURS]))
    for page in count():
        found = client.read_deployments(deployment_filter=ours, limit=PAGE, offset=page * PAGE)
        yield from found
        if len(found) < PAGE:
            return


def _was(found: DeploymentResponse, key: str) -> Any:
    """What a deployment has, as `content` has it."""
    if key == "concurrency_limit":
        return found.global_concurrency_limit and found.global_concurrency_limit.limit
    if key == "concurrency_options":
        return found.concurrency_options and found.concurrency_options.model_dump(mode="json", exclude_none=True)
    return sorted(found.tags) if key == "tags" else getattr(found, key)


def _times(schedules: Iterable[Any]) -> list[tuple[str, str]]:
    """Cron and time zone of each; of what a person made of it there, how it is written."""
    return sorted((str(getattr(each, "cron", each)), str(each.timezone)) for each in schedules)
