"""The command that reads through what is stored, and mends what can be mended."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from pairloom.flows.cli.answers import answer, errors_in_one_line, say_first
from pairloom.flows.cli.options import DEFAULT_FILE, File, Json, Name, Root, chosen_pipeline, writable

if TYPE_CHECKING:
    from pairloom.tasks.pipeline import Pipeline

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

    with errors_in_one_line():
        pipelines = [chosen_pipeline(each, file, root) for each in ([name] if name else pipeline_names(file))]
        with stage_bars(quiet=json_):
            states = [_mended(writable(each)) if repair else _state(each) for each in pipelines]
    answer(json_, states, lambda: show_damage(states))
    raise typer.Exit(0 if all(state["whole"] for state in states) else 1)


def _state(pipeline: "Pipeline") -> dict[str, Any]:
    """What one pipeline's files are like."""
    from pairloom.tasks.verify import verified

    found = verified(pipeline)
    return {"pipeline": pipeline.name, "whole": found.whole, **found.model_dump(mode="json"), "repaired": []}


def _mended(pipeline: "Pipeline") -> dict[str, Any]:
    """The same after all was done that can be."""
    from pairloom.storage.repair import repair
    from pairloom.tasks.verify import export_again, rebuild, verified

    found, done = verified(pipeline), []
    # What was mended may be what something else is made of.
    while mended := repair(pipeline.folder, [each for each in found.findings if each.path not in done]):
        done += [each.path for each in mended]
        found = verified(pipeline)
    done += export_again(pipeline, found)
    if release := rebuild(pipeline, found):
        done.append(f"releases/{release.number:06d}.json")
    return _state(pipeline) | {"repaired": done}
