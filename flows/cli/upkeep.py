"""The command that reads through what is stored, and mends what can be mended."""

from typing import Annotated

import typer

from pairloom.flows.cli.answers import answer, errors_in_one_line, say_first
from pairloom.flows.cli.options import DEFAULT_FILE, File, Json, Name, Root, chosen_pipeline, writable

app = typer.Typer()


@app.command()
def verify(
    repair: Annotated[
        bool, typer.Option("--repair", help="Make again what can be made again from what is whole.")
    ] = False,
    name: Name = None,
    file: File = DEFAULT_FILE,
    root: Root = None,
    json_: Json = False,
) -> None:
    """Read everything that is kept, of one pipeline or of all, and tell what is damaged and what can be done.

    The exit status is 1 where something is damaged, or still is after `--repair`.
    """
    say_first("verify")
    from pairloom.flows.config import pipeline_names
    from pairloom.flows.show.damage import show_damage
    from pairloom.flows.show.progress import stage_bars
    from pairloom.flows.upkeep import mended, state

    with errors_in_one_line():
        pipelines = [chosen_pipeline(each, file, root) for each in ([name] if name else pipeline_names(file))]
        with stage_bars(quiet=json_):
            states = [mended(writable(each)) if repair else state(each) for each in pipelines]
    answer(json_, states, lambda: show_damage(states))
    raise typer.Exit(0 if all(each["whole"] for each in states) else 1)
