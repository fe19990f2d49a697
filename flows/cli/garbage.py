"""The command that deletes what no kept release needs any more, or shows what would go."""

from typing import Annotated

import typer

from pairloom.flows.cli.answers import answer, errors_in_one_line, say_first
from pairloom.flows.cli.options import DEFAULT_FILE, File, Json, Name, Root, Set, chosen_pipeline

app = typer.Typer()


@app.command()
def collect_garbage(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show what would go.")] = False,
    name: Name = None,
    file: File = DEFAULT_FILE,
    root: Root = None,
    set_: Set = None,
    json_: Json = False,
) -> None:
    """Delete what no kept release, snapshot or run needs any more, as the end of each night does.

    `retention.releases` are kept; nothing younger than `retention.grace_hours` goes.
    """
    say_first("collect-garbage")
    from pairloom.flows.show.garbage import show_garbage
    from pairloom.flows.show.progress import stage_bars
    from pairloom.tasks.collect import collect_now, would_collect
    from pairloom.tasks.decide import training_digest

    with errors_in_one_line():
        pipeline = chosen_pipeline(name, file, root, set_)
        with stage_bars(quiet=json_):
            found = would_collect(pipeline) if dry_run else collect_now(pipeline, training_digest(pipeline))
    document = {"pipeline": pipeline.name, "dry_run": dry_run, **found.model_dump(mode="json")}
    answer(json_, document, lambda: show_garbage(found, dry_run=dry_run))
