"""Commands by which a person has the word on a challenger that passed the gate."""

import getpass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pairloom.flows.cli.answers import HELD, answer, errors_in_one_line, say_first
from pairloom.flows.cli.options import (
    DEFAULT_FILE,
    File,
    Json,
    Name,
    Root,
    Set,
    chosen_folder,
    chosen_pipeline,
    writable,
)

if TYPE_CHECKING:
    from pairloom.flows.outcome import Night

app = typer.Typer()

By = Annotated[str | None, typer.Option(metavar="NAME", help="Who says so; the name you are logged in by, without it.")]
Reason = Annotated[str, typer.Option(metavar="TEXT", help="Why, for whoever reads it later.")]


@app.command()
def approve(
    by: By = None,
    reason: Reason = "",
    name: Name = None,
    file: File = DEFAULT_FILE,
    root: Root = None,
    set_: Set = None,
    json_: Json = False,
) -> None:
    """Release the challenger that waits for it (gate.approval: person)."""
    say_first("approve")
    from pairloom.flows.approval import approve_waiting
    from pairloom.flows.show.progress import stage_bars

    with errors_in_one_line(), stage_bars(quiet=json_):
        pipeline = writable(chosen_pipeline(name, file, root, set_))
        night = approve_waiting(pipeline, by=by or login_name(), note=reason)
    _settled(pipeline.folder, night, json_)
    raise typer.Exit(HELD if night.outcome == "held" else 0)


@app.command()
def refuse(
    by: By = None,
    reason: Reason = "",
    name: Name = None,
    file: File = DEFAULT_FILE,
    root: Root = None,
    json_: Json = False,
) -> None:
    """Hold the challenger that waits: the same one isn't trained again."""
    from pairloom.flows.approval import refuse_waiting

    with errors_in_one_line():
        folder = chosen_folder(name, file, root)
        night = refuse_waiting(folder, by=by or login_name(), note=reason)
    _settled(folder, night, json_)


def _settled(folder: Path, night: "Night", as_json: bool) -> None:
    """Show what a person's word led to; the flow run that asks for it, if there is one, has nothing to ask any more."""
    from pairloom.flows.configured_server import server_is_configured
    from pairloom.flows.show.console import show_night

    answer(as_json, night.model_dump(), lambda: show_night(night))
    if server_is_configured():
        from pairloom.flows.approval_form import try_to_close_forms

        try_to_close_forms(folder)


def login_name() -> str:
    """Who runs this; `somebody` where the machine has no name for that user."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return "somebody"
