"""Commands by which a person has the word on a challenger that passed the gate."""

import getpass
from typing import Annotated

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
    from pairloom.flows.approval import approve as release
    from pairloom.flows.show.console import show_night
    from pairloom.flows.show.progress import stage_bars

    with errors_in_one_line(), stage_bars(quiet=json_):
        pipeline = writable(chosen_pipeline(name, file, root, set_))
        night = release(pipeline, by=by or login_name(), note=reason)
    answer(json_, night.model_dump(), lambda: show_night(night))
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
    from pairloom.flows.show.console import show_refused
    from pairloom.storage.approvals import refuse as hold
    from pairloom.storage.approvals import require_waiting

    with errors_in_one_line():
        folder = chosen_folder(name, file, root)
        refused = hold(folder, require_waiting(folder), by=by or login_name(), reason=reason)
    answer(json_, refused.model_dump(mode="json"), lambda: show_refused(folder.name, refused))


def login_name() -> str:
    """Who runs this; `somebody` where the machine has no name for that user."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return "somebody"
