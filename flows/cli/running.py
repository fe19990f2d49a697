"""Commands that change what is stored or served: the night, its stages, releases, deployments."""

from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from pairloom.flows.cli.answers import HELD, answer, errors_in_one_line, print_json, say_first
from pairloom.flows.cli.options import (
    DEFAULT_FILE,
    Accept,
    AcceptChanges,
    AsOf,
    File,
    Json,
    Name,
    Root,
    Set,
    chosen_folder,
    chosen_pipeline,
    days,
    writable,
)
from pairloom.storage.escaping import plain

if TYPE_CHECKING:
    from pairloom.tasks.pipeline import Pipeline

app = typer.Typer()


@app.command()
def run(
    accept: Accept = False,
    accept_changes: AcceptChanges = False,
    as_of: AsOf = None,
    name: Name = None,
    file: File = DEFAULT_FILE,
    root: Root = None,
    set_: Set = None,
    json_: Json = False,
) -> None:
    """Run the whole night in this process: ingest, mine, train, evaluate, embed, release."""
    say_first("run")
    from pairloom.flows.here import run_here
    from pairloom.flows.nightly import nightly
    from pairloom.flows.outcome import Night
    from pairloom.flows.show.console import show_night
    from pairloom.tasks.stage import refs

    left = refs()

    nights: list[Night] = []
    several = False

    def tell() -> None:
        documents = [night.to_json() for night in nights]
        print_json(documents if several else documents[0])

    def failed(reason: str) -> None:
        if json_:
            nights.append(Night.failed(name, reason, left.get("ingest")))
            tell()

    with errors_in_one_line(failed):
        asked = days(as_of)
        several = len(asked) > 1
        pipeline = writable(chosen_pipeline(name, file, root, set_))
        pipeline = pipeline.accepting_removals() if accept else pipeline
        pipeline = pipeline.accepting_changes() if accept_changes else pipeline
        for day in asked:
            nights.append(run_here(nightly, pipeline.on(day), quiet=json_))
            if not json_:
                show_night(nights[-1])
    if json_:
        tell()
    raise typer.Exit(HELD if nights[-1].outcome == "held" else 0)


def _stage_command(stage: str, about: str) -> None:
    def command(
        name: Name = None, file: File = DEFAULT_FILE, root: Root = None, set_: Set = None, json_: Json = False
    ) -> None:
        _run_stage(stage, lambda: writable(chosen_pipeline(name, file, root, set_)), json_)

    app.command(stage, help=about)(command)


def _run_stage(stage: str, pipeline: Callable[[], "Pipeline"], json_: bool) -> None:
    say_first(stage)
    from pairloom.flows import stages
    from pairloom.flows.here import run_here
    from pairloom.flows.show.console import show_ref

    with errors_in_one_line():
        ref = run_here(getattr(stages, stage), pipeline(), quiet=json_)
    answer(json_, ref.model_dump(), lambda: show_ref(stage, ref))
    held = (stage == "evaluate" and not ref.passed) or (stage == "ingest" and ref.rows_held)
    raise typer.Exit(HELD if held else 0)


def _read_rows(pipeline: "Pipeline", json_: bool) -> None:
    from pairloom.flows import stages
    from pairloom.flows.here import run_here

    run_here(stages.ingest, pipeline, quiet=json_)


@app.command()
def ingest(
    accept: Accept = False,
    as_of: AsOf = None,
    name: Name = None,
    file: File = DEFAULT_FILE,
    root: Root = None,
    set_: Set = None,
    json_: Json = False,
) -> None:
    """Bring the corpus up to what the sources hold."""

    def pipeline(day: date | None) -> "Pipeline":
        chosen = writable(chosen_pipeline(name, file, root, set_))
        return (chosen.accepting_removals() if accept else chosen).on(day)

    with errors_in_one_line():
        *before, last = days(as_of)
        for day in before:
            _read_rows(pipeline(day), json_)
    _run_stage("ingest", lambda: pipeline(last), json_)


for _stage, _about in {
    "mine": "Mine positive and negative pairs of the current snapshot.",
    "train": "Train a challenger from the mined pairs.",
    "refit": "Train the challenger that passed further, on all items.",
    "embed": "Embed what the serving model has not embedded yet.",
    "publish": "Build, check and release the vector table.",
}.items():
    _stage_command(_stage, _about)


@app.command()
def evaluate(
    model: Annotated[
        str | None,
        typer.Option(
            help="Score this instead: an OpenCLIP folder, a name open_clip knows, `hf-hub:…`, with -p a model_id."
        ),
    ] = None,
    data: Annotated[
        Path | None, typer.Option(help="Score on these: a folder of images, or a .jsonl, .csv or .tsv of captions.")
    ] = None,
    pretrained: Annotated[str | None, typer.Option(help="open_clip's tag of weights, or a weights file.")] = None,
    base: Annotated[Path | None, typer.Option(help="Where image paths in the caption file start.")] = None,
    column: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY=COLUMN", help="A column of the data: id, image, texts, group or split. Repeatable."),
    ] = None,
    where: Annotated[str | None, typer.Option(metavar="SQL", help="Only rows for which this holds.")] = None,
    split: Annotated[Literal["train", "val", "test"] | None, typer.Option(help="Only items of this split.")] = None,
    k: Annotated[list[int] | None, typer.Option("--k", min=1, help="Recall at this many. Repeatable.")] = None,
    slices: Annotated[list[str] | None, typer.Option(metavar="COLUMN", help="Break down by it. Repeatable.")] = None,
    probe: Annotated[
        list[str] | None, typer.Option(metavar="COLUMN", help="Classify it from the image embeddings. Repeatable.")
    ] = None,
    name: Name = None,
    file: File = DEFAULT_FILE,
    root: Root = None,
    set_: Set = None,
    json_: Json = False,
) -> None:
    """Measure the challenger beside the champion; the gate decides.

    With `--model` and `--data`: score any open_clip model on any images with texts; needs no pipeline.
    """
    if model is None and data is None and not any((pretrained, base, column, where, split, k, slices, probe)):
        return _run_stage("evaluate", lambda: writable(chosen_pipeline(name, file, root, set_)), json_)
    say_first("evaluate")
    from pairloom.flows.scoring import Owner, Question, score_question
    from pairloom.flows.show.console import show_scores

    with errors_in_one_line():
        if model is None or data is None:
            raise ValueError("scoring a model on a source takes both --model and --data")
        columns, measured = tuple(column or ()), (tuple(k or ()), tuple(slices or ()), tuple(probe or ()))
        question = Question(model, pretrained, data, base, where, columns, split, *measured)
        owner = Owner(file, name, root) if name else None
        scores = score_question(question, owner, set_ or (), quiet=json_)
    return answer(json_, scores.model_dump(), lambda: show_scores(scores))


@app.command()
def rollback(
    number: Annotated[int, typer.Argument(help="The release to go back to.")],
    name: Name = None,
    file: File = DEFAULT_FILE,
    root: Root = None,
    json_: Json = False,
) -> None:
    """Serve an earlier release again: a new record that names its content."""
    from pairloom.flows.show.console import show_release
    from pairloom.storage.releases import roll_back

    with errors_in_one_line():
        release = roll_back(chosen_folder(name, file, root), number)
    answer(json_, release.model_dump(mode="json"), lambda: show_release(release))


@app.command()
def deploy(
    name: Name = None,
    file: File = DEFAULT_FILE,
    root: Root = None,
    check: Annotated[bool, typer.Option("--check", help="Only check what would be deployed; needs no server.")] = False,
    prune: Annotated[bool, typer.Option("--prune", help="Delete deployments of pipelines that left the file.")] = False,
    take_over: Annotated[bool, typer.Option("--take-over", help="Change what another file deployed, too.")] = False,
    json_: Json = False,
) -> None:
    """Register every pipeline's night, with its schedule, its stages and its upkeep on the Prefect server."""
    from pairloom.flows.config import pipeline_names

    with errors_in_one_line():
        names = pipeline_names(file)
        # After the file, so that nobody waits for Prefect to hear of a misspelt key.
        pipelines = [chosen_pipeline(each, file, root) for each in ([name] if name else names)]
        from pairloom.flows.plan import plan_file

        planned = plan_file(file, [pipeline.name for pipeline in pipelines], root)
        rows, said = [each.row for each in planned], []
        if not check:
            from pairloom.flows.deploy import deploy as register

            done = register(planned, names, prune=prune, take_over=take_over)
            rows, said = done.rows, [done.summary, *done.lacking]
    from pairloom.flows.show.console import show_rows

    answer(json_, rows, lambda: show_rows(rows))
    for line in said:
        typer.echo(plain(line), err=True)


@app.command()
def serve(name: Name = None, file: File = DEFAULT_FILE, root: Root = None) -> None:
    """Run a Prefect server, the schedules and the runs in this one process."""
    say_first("serve")
    from pairloom.flows.config import pipeline_names

    with errors_in_one_line():
        names = [name] if name else pipeline_names(file)
        pipelines = [chosen_pipeline(each, file, root) for each in names]
        from pairloom.flows.plan import plan_file
        from pairloom.flows.serve import serve as serve_here

        serve_here(plan_file(file, [pipeline.name for pipeline in pipelines], root))


@app.command()
def init(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="What to write.")] = DEFAULT_FILE,
    force: Annotated[bool, typer.Option("--force", help="Write over a file that is there.")] = False,
) -> None:
    """Write a file of pipelines to start from, for your folder of pictures or your captions file."""
    from pairloom.flows.config import write_template

    with errors_in_one_line():
        write_template(file, force=force)
    option = "" if file == DEFAULT_FILE else f" --file {file}"
    typer.echo(f"{file} is written. Name your pictures in it, then: pairloom run{option}")


@app.command()
def demo(
    root: Root = None,
    sheet: Annotated[Path, typer.Option(help="Where to write the page of hits.")] = Path("contact-sheet.html"),
) -> None:
    """From nothing to a searchable release of some thousand icons, in minutes on a laptop's CPU."""
    say_first("demo")
    from pairloom.flows.demo import run_demo

    with errors_in_one_line():
        night = run_demo(root, sheet)
    raise typer.Exit(HELD if night.outcome == "held" else 0)
