"""The form on the page of a night's flow run, by which a person approves or refuses the challenger that waits."""

import logging
from pathlib import Path
from typing import Literal

import httpx
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import (
    DeploymentFilter,
    DeploymentFilterName,
    FlowFilter,
    FlowFilterName,
    FlowRunFilter,
    FlowRunFilterState,
    FlowRunFilterStateName,
)
from prefect.client.schemas.objects import FlowRun
from prefect.context import FlowRunContext
from prefect.exceptions import PrefectException
from prefect.flow_runs import suspend_flow_run
from prefect.input import RunInput
from prefect.states import Completed
from pydantic import Field

from pairloom.flows.approval import approve_waiting, refuse_waiting
from pairloom.flows.outcome import Night
from pairloom.storage.approvals import Approval, ended, last_approval, waiting
from pairloom.storage.escaping import markdown_text, plain
from pairloom.tasks.pipeline import Pipeline

logger = logging.getLogger(__name__)


class Answer(RunInput):
    """A person's word on a challenger."""

    # No switch: one that nobody touched would refuse.
    answer: Literal["approve", "refuse"] = Field(
        description="Release the challenger, or hold it and not train it again."
    )
    by: str = Field(min_length=1, description="Who says so.")
    note: str = Field(default="", description="Why, for whoever reads it later.")


def answered(folder: Path) -> Answer | None:
    """A person's word on what waits, in a flow run that was suspended for it; None in all others."""
    challenger = waiting(folder)
    if challenger is None or form_key(challenger) not in (_run().empirical_policy.pause_keys or ()):
        return None
    # Of a form that was sent, it is what stood in it.
    return suspend_flow_run(wait_for_input=Answer, key=form_key(challenger))


def ask(pipeline: Pipeline) -> None:
    """Suspend this flow run for a person's word on what waits; once the form is sent, it begins anew.

    Nothing happens where nothing waits, where another run asks already, and in a run of no deployment, which nothing
    would begin anew.
    """
    challenger, asked = waiting(pipeline.folder), close_forms(pipeline.folder)
    if challenger is None or asked or _run().deployment_id is None:
        return
    # Its pictures take the read side, which `deploy` does not need.
    from pairloom.flows.show.approval_sheet import attach_sheet

    attach_sheet(pipeline, challenger)
    # For ever, as far as Prefect knows: what `gate.approval_hours` ends is held, not failed.
    suspend_flow_run(wait_for_input=Answer.with_initial_data(description=about(challenger)), key=form_key(challenger))


def follow(pipeline: Pipeline, answer: Answer) -> Night:
    """What a person's word leads to."""
    if answer.answer == "approve":
        return approve_waiting(pipeline, by=answer.by, note=answer.note)
    return refuse_waiting(pipeline.folder, by=answer.by, note=answer.note)


def close_forms(folder: Path) -> bool:
    """End the runs whose form asks about what waits no more; whether one asks about what does."""
    challenger, asked = waiting(folder), False
    with get_client(sync_client=True) as client:
        suspended = client.read_flow_runs(
            flow_filter=FlowFilter(name=FlowFilterName(any_=["nightly"])),
            deployment_filter=DeploymentFilter(name=DeploymentFilterName(any_=[folder.name])),
            flow_run_filter=FlowRunFilter(state=FlowRunFilterState(name=FlowRunFilterStateName(any_=["Suspended"]))),
        )
        for run in suspended:
            assert run.state is not None, "it is suspended"
            key = run.state.state_details.pause_key
            if challenger and key == form_key(challenger):
                asked = True
            else:
                message = plain(_became(folder, key))
                client.set_flow_run_state(run.id, Completed(name="Held", message=message), force=True)
    return asked


def try_to_close_forms(folder: Path) -> None:
    """The same where no run is at hand: a server that doesn't answer leaves it to the next night."""
    try:
        close_forms(folder)
    except (httpx.HTTPError, PrefectException) as error:
        logger.warning("a flow run may still ask for approval, which the next night ends: %s", error)


def form_key(challenger: Approval) -> str:
    """Names the form of a challenger: an answer to the form of one is none about another."""
    return f"{challenger.run_id}-{challenger.model_id}"


def about(challenger: Approval) -> str:
    """What stands above the form, as Markdown."""
    lines = [
        f"**Model {markdown_text(challenger.model_id)}** ({markdown_text(challenger.trained_because)}) passed the gate "
        f"and waits until {challenger.until:%Y-%m-%d %H:%M} UTC. What it finds, beside what is served, is among "
        "this run's artifacts.",
        "",
        markdown_text(challenger.figures),
        "",
        *(f"- {markdown_text(comparison)}" for comparison in challenger.comparisons),
    ]
    return "\n".join(lines)


def _became(folder: Path, key: str | None) -> str:
    """What became of the challenger that a form asks about, in a sentence."""
    last = last_approval(folder)
    return (last and form_key(last) == key and ended(folder, last)) or "another challenger came after this one"


def _run() -> FlowRun:
    context = FlowRunContext.get()
    assert context is not None, "it is called in a flow run"
    assert context.flow_run is not None, "it is called in a flow run"
    return context.flow_run
