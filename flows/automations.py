"""What the Prefect server does by itself: it crashes runs without a sign of life, and tells people of the nights."""

from collections.abc import Mapping, Sequence
from datetime import timedelta
from uuid import UUID

from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.objects import StateType
from prefect.events import emit_event
from prefect.events.actions import ChangeFlowRunState
from prefect.events.filters import AutomationFilter, AutomationFilterTags
from prefect.events.schemas.automations import Automation, AutomationCore, EventTrigger, Posture

from pairloom.flows.notifications import BEGUN, notifications
from pairloom.flows.run_tags import OURS, run_tags
from pairloom.tasks.pipeline import Pipeline

HEARTBEAT_SECONDS = 30
"""How often a run says that it lives: Prefect's shortest."""
SILENT_SECONDS = 3 * HEARTBEAT_SECONDS
PAGE = 200


def keep_automations(
    client: SyncPrefectClient, pipelines: Sequence[Pipeline], blocks: Mapping[str, tuple[str, UUID]]
) -> None:
    """Have the server do what the pipelines say, and nothing else for them. Twice is the same as once.

    `blocks` are type and id of each notification block that they name.
    """
    _settle(client, [OURS], [silent_runs()])
    for pipeline in pipelines:
        if not pipeline.notify:
            remove_automations(client, pipeline.name)
            continue
        night, publish = (
            client.read_deployment_by_name(f"{name}/{pipeline.name}").id for name in ("nightly", "publish")
        )
        wanted = notifications(pipeline, blocks, night=night, publish=publish)
        if _settle(client, run_tags(pipeline.name), wanted):
            # From here on the hours without a release count; a first night may never come.
            this = {"prefect.resource.id": f"prefect.deployment.{night}", "prefect.resource.name": pipeline.name}
            emit_event(BEGUN, resource=this, related=[this | {"prefect.resource.role": "deployment"}])


def remove_automations(client: SyncPrefectClient, pipeline: str) -> list[str]:
    """Take away those of a pipeline that is deployed no more; returns their names."""
    left = _those(client, run_tags(pipeline))
    _settle(client, run_tags(pipeline), [])
    return [each.name for each in left]


def silent_runs() -> AutomationCore:
    """A run whose process, worker or machine is gone can't say so; nobody else would end it, and free its place."""
    return AutomationCore(
        name="pairloom: crash runs without a sign of life",
        description=f"A run of Pairloom that says nothing for {SILENT_SECONDS} s has no process any more.",
        tags=[OURS],
        trigger=EventTrigger(
            match={"prefect.resource.id": "prefect.flow-run.*"},
            match_related={"prefect.resource.role": "tag", "prefect.resource.id": f"prefect.tag.{OURS}"},
            for_each={"prefect.resource.id"},
            after={"prefect.flow-run.heartbeat"},
            # Any state that it comes to is a sign: ours have names of their own.
            expect={"prefect.flow-run.*"},
            posture=Posture.Proactive,
            threshold=1,
            within=timedelta(seconds=SILENT_SECONDS),
        ),
        actions=[
            ChangeFlowRunState(
                state=StateType.CRASHED,
                name="Crashed",
                message=f"No sign of life for {SILENT_SECONDS} s: its process, worker or machine is gone. "
                "Another run goes on from what it left.",
            )
        ],
    )


def _settle(client: SyncPrefectClient, tags: Sequence[str], wanted: Sequence[AutomationCore]) -> bool:
    """Make these the server's automations with exactly these tags; whether anything had to be done."""
    there = {each.name: each for each in _those(client, tags)}
    changed = False
    for each in wanted:
        now = there.pop(each.name, None)
        if now is None:
            client.create_automation(each)
        elif _said(now) == _said(each):
            continue
        else:
            client.update_automation(now.id, each)
        changed = True
    for gone in there.values():
        client.delete_automation(gone.id)
    return changed


def _those(client: SyncPrefectClient, tags: Sequence[str]) -> list[Automation]:
    found: list[Automation] = []
    chosen = AutomationFilter(tags=AutomationFilterTags(all_=list(tags)))
    while page := client.read_automations(automations=chosen, limit=PAGE, offset=len(found)):
        found += page
    return [each for each in found if sorted(each.tags) == sorted(tags)]


def _said(automation: AutomationCore) -> object:
    """What counts of an automation: a pause by a person stays, and ids are the server's own."""
    chosen = {"name", "description", "trigger", "actions"}
    said = automation.model_dump(mode="json", include=chosen)
    said["trigger"].pop("id", None)
    for name in ("after", "expect", "for_each"):
        said["trigger"][name] = sorted(said["trigger"][name])
    return said
