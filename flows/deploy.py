"""Prefect deployments from pipelines.yaml: each pipeline's night with its schedule, its stages and its upkeep."""

import contextlib
import functools
import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any, get_type_hints

from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.client.schemas.objects import ConcurrencyLimitStrategy
from prefect.exceptions import ObjectAlreadyExists
from prefect.settings import PREFECT_API_URL
from prefect.utilities.callables import parameter_schema

from pairloom.flows import deployed
from pairloom.flows.automations import HEARTBEAT_SECONDS, keep_automations, remove_automations
from pairloom.flows.elsewhere import lack
from pairloom.flows.notifications import named_blocks
from pairloom.flows.plan import NIGHT, Planned, pipelines_of, plan_deployments
from pairloom.flows.registry import Registry
from pairloom.flows.run_tags import run_tags
from pairloom.tasks.pipeline import Pipeline

ENVIRONMENT = {"PREFECT_FLOWS_HEARTBEAT_FREQUENCY": str(HEARTBEAT_SECONDS)}
"""Of runs: that they say how they are, so that killed ones are known."""


@dataclass(frozen=True)
class Deployed:
    """What a `deploy` did."""

    rows: list[dict[str, str]]
    """Every deployment, and whether it was `created`, `updated` or `unchanged`; below them what left the file."""
    lacking: list[str]
    """What work pools lack before they run anything, with the command that brings it."""

    @property
    def summary(self) -> str:
        """How many deployments changed."""
        changes = [row["change"] for row in self.rows]
        if set(changes) <= {"unchanged"}:
            return f"{len(changes)} deployments: nothing changed"
        said = ", ".join(f"{changes.count(each)} {each}" for each in dict.fromkeys(changes))
        return f"{len(changes)} deployments: {said}"


def deploy_pipelines(pipelines: Sequence[Pipeline]) -> list[dict[str, str]]:
    """Register what pipelines that stand in no file have. Twice is the same as once."""
    return deploy(plan_deployments(pipelines), [pipeline.name for pipeline in pipelines]).rows


def deploy(
    planned: Sequence[Planned], pipelines: Collection[str], *, prune: bool = False, take_over: bool = False
) -> Deployed:
    """Register deployments, and the work pools they name, on the Prefect server. Twice is the same as once.

    `pipelines` are all that the file has: what it made of others is paused, or deleted (`prune`). Raises ValueError,
    before anything is changed, where one of the deployments is somebody else's or another file's (unless `take_over`).
    """
    if not PREFECT_API_URL.value():
        raise ValueError(
            "no Prefect server is configured: set PREFECT_API_URL (like http://127.0.0.1:4200/api) to one that "
            "`prefect server start` runs, or use `pairloom serve`, which starts its own"
        )
    file = next((str(each.file) for each in planned if each.file), None)
    with get_client(sync_client=True) as client:
        registry = Registry(client, file)
        if refused := registry.refused([each.name for each in planned], take_over=take_over):
            raise ValueError(refused)
        of = pipelines_of(planned)
        blocks = named_blocks(client, of)
        lacking = _pools(client, sorted({each.work_pool for each in planned}))
        rows = [
            {**each.row, "change": registry.put(each.name, content(each), each.schedule, ENVIRONMENT)}
            for each in planned
        ]
        keep_automations(client, of, blocks)
        for left in registry.left(pipelines, {each.name for each in planned}):
            rows.append(registry.row(left, registry.delete(left) if prune else registry.pause(left)))
            if left.name not in pipelines:
                remove_automations(client, left.name)
    return Deployed(rows, lacking)


def content(planned: Planned) -> dict[str, Any]:
    """All that is said of a deployment but its schedule, in JSON. Job variables are people's, but for `ENVIRONMENT`."""
    # Two nights of one pipeline would only race for the same release: the later one is not started. A second run of a
    # stage waits, and finds done what the first one did.
    busy = ConcurrencyLimitStrategy.CANCEL_NEW if planned.flow == NIGHT else ConcurrencyLimitStrategy.ENQUEUE
    return {
        "version": planned.stamp or None,
        "description": getattr(deployed, planned.flow).description,
        "parameters": planned.parameters,
        "tags": sorted(run_tags(planned.pipeline.name)),
        "entrypoint": f"{deployed.__name__}.{planned.flow}",
        "work_pool_name": planned.work_pool,
        "parameter_openapi_schema": _form(planned.flow),
        "enforce_parameter_schema": True,
        "concurrency_limit": 1,
        "concurrency_options": {"collision_strategy": busy.value},
    }


@functools.cache
def _form(flow: str) -> Any:
    """A flow's parameters as its form shows them. Prefect takes long to describe them."""
    form = json.loads(parameter_schema(getattr(deployed, flow)).model_dump_json(exclude_unset=True))
    # Of a parameter's own help, Prefect reads what a docstring lists of it, and nothing else.
    for name, hint in get_type_hints(getattr(deployed, flow).fn, include_extras=True).items():
        for field in getattr(hint, "__metadata__", ()):
            form["properties"][name]["description"] = field.description
    return form


def _pools(client: SyncPrefectClient, names: Sequence[str]) -> list[str]:
    """Create the work pools that there aren't; what each of them lacks."""
    for name in names:
        with contextlib.suppress(ObjectAlreadyExists):
            client.create_work_pool(WorkPoolCreate(name=name, type="process"))
    return [said for name in names if (said := lack(client, client.read_work_pool(name)))]
