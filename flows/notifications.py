"""The automations by which people hear what the nights of a pipeline came to, and that no release has come."""

import json
from collections.abc import Mapping, Sequence
from datetime import timedelta
from uuid import UUID

from prefect.client.orchestration import SyncPrefectClient
from prefect.events.actions import CallWebhook, SendNotification
from prefect.events.schemas.automations import AutomationCore, EventTrigger, Posture
from prefect.exceptions import ObjectNotFound

from pairloom.flows.run_tags import run_tags
from pairloom.tasks.notifying import Heard, NotifyConfig
from pairloom.tasks.pipeline import Pipeline

BEGUN = "pairloom.deployed"
"""The event from which the hours without a release count at first."""

EVENTS: dict[Heard, set[str]] = {
    "released": {"prefect.flow-run.Completed"},
    "unchanged": {"prefect.flow-run.Unchanged"},
    "held": {"prefect.flow-run.Held"},
    "waiting": {"prefect.flow-run.Suspended"},
    "failed": {"prefect.flow-run.Failed", "prefect.flow-run.Crashed"},
}
"""The server's own events: it makes one of each state of a run, and a killed run could send none."""

WEBHOOK = "webhook"
"""The type of block that takes a document instead of a text."""
STATE = "{{ (flow_run.state.message or flow_run.state.name) }}"
RUN = "{{ flow_run.id|string }}"
PAGE = "{{ (flow_run|ui_url or '') }}"
"""Empty where the server doesn't know its own address."""

Blocks = Mapping[str, tuple[str, UUID]]


def named_blocks(client: SyncPrefectClient, pipelines: Sequence[Pipeline]) -> dict[str, tuple[str, UUID]]:
    """Type and id of each notification block that pipelines name, by that name; what is secret in them stays there.

    Raises ValueError for one that the server doesn't have, or that tells nobody anything.
    """
    found = {}
    for pipeline in pipelines:
        for each in pipeline.notify:
            kind, _, name = each.block.partition("/")
            try:
                block = client.read_block_document_by_name(name, kind, include_secrets=False)
            except ObjectNotFound as error:
                raise ValueError(
                    f"pipeline {pipeline.name!r}: notify: the Prefect server has no block {name!r} of type {kind!r}: "
                    "make it in the UI under Blocks, or mend the name"
                ) from error
            tells = block.block_schema and "notify" in block.block_schema.capabilities
            if not tells and kind != WEBHOOK:
                raise ValueError(
                    f"pipeline {pipeline.name!r}: notify: a block of type {kind!r} sends no notifications: take one "
                    "like slack-webhook, sendgrid-email, custom-webhook or webhook"
                )
            found[each.block] = (kind, block.id)
    return found


def notifications(pipeline: Pipeline, blocks: Blocks, *, night: UUID, publish: UUID) -> list[AutomationCore]:
    """The automations that a pipeline's `notify:` asks for; `night` and `publish` are its deployments."""
    found = []
    for each in pipeline.notify:
        block = blocks[each.block]
        found += [_of_night(pipeline.name, each, heard, block, night) for heard in dict.fromkeys(each.when)]
        if each.hours_without_release is not None:
            found.append(_of_silence(pipeline.name, each, each.hours_without_release, block, [night, publish]))
    # Who is named twice hears it once.
    return list({each.name: each for each in found}.values())


def _of_night(
    pipeline: str, config: NotifyConfig, heard: Heard, block: tuple[str, UUID], night: UUID
) -> AutomationCore:
    return AutomationCore(
        name=f"{pipeline}: {heard}: {config.block}",
        description=f"`notify:` of pipeline {pipeline}; `pairloom deploy` keeps it.",
        tags=run_tags(pipeline),
        trigger=EventTrigger(
            match={"prefect.resource.id": "prefect.flow-run.*"},
            match_related=_deployments([night]),
            for_each={"prefect.resource.id"},
            expect=EVENTS[heard],
            posture=Posture.Reactive,
            threshold=1,
        ),
        actions=[_action(block, pipeline, heard, STATE, RUN, PAGE)],
    )


def _of_silence(
    pipeline: str, config: NotifyConfig, hours: float, block: tuple[str, UUID], deployments: Sequence[UUID]
) -> AutomationCore:
    said = f"nothing was released for {hours:g} hours. `pairloom status -p {pipeline}` says what is served."
    released = EVENTS["released"]
    return AutomationCore(
        name=f"{pipeline}: no release: {config.block}",
        description=f"`notify:` of pipeline {pipeline}; `pairloom deploy` keeps it.",
        tags=run_tags(pipeline),
        trigger=EventTrigger(
            match={"prefect.resource.id": ["prefect.flow-run.*", f"prefect.deployment.{deployments[0]}"]},
            match_related=_deployments(deployments),
            # Hours count from a release on; and where one is long due, again from the next night on.
            after={*released, "prefect.flow-run.Running", BEGUN},
            expect=released,
            posture=Posture.Proactive,
            threshold=1,
            within=timedelta(hours=hours),
        ),
        actions=[_action(block, pipeline, "no release", said)],
    )


def _deployments(ids: Sequence[UUID]) -> dict[str, str | list[str]]:
    return {"prefect.resource.role": "deployment", "prefect.resource.id": [f"prefect.deployment.{id_}" for id_ in ids]}


def _action(
    block: tuple[str, UUID], pipeline: str, heard: str, said: str, run: str = "", page: str = ""
) -> CallWebhook | SendNotification:
    kind, id_ = block
    if kind != WEBHOOK:
        return SendNotification(block_document_id=id_, subject=f"{pipeline}: {heard}", body=f"{said}\n{page}".strip())
    told = {"pipeline": pipeline, "event": heard, "said": said, "run": run, "page": page}
    return CallWebhook(block_document_id=id_, payload=_document(told))


def _document(told: Mapping[str, str]) -> str:
    """JSON with templates in it, whose values are written as JSON too."""
    pairs = (
        f"{json.dumps(name)}: {value.replace(' }}', '|tojson }}') if '{{' in value else json.dumps(value)}"
        for name, value in told.items()
    )
    return "{" + ", ".join(pairs) + "}"
