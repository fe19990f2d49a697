"""The command line: doors to the flows and to the read side, one short function a command."""

# This module stays light: decoding starts child processes, and each imports it again as its main module.
import json
import logging
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from flows.interrupt import watch

if TYPE_CHECKING:
    from search.release import OpenRelease
    from tasks.pipeline import Pipeline

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

Name = Annotated[
    str | None, typer.Option("--pipeline", "-p", help="Which pipeline; needed only where the file holds several.")
]
File = Annotated[Path, typer.Option("--file", help="The file of pipelines.")]
Root = Annotated[Path | None, typer.Option("--root", help="Store under this folder instead of the file's `root`.")]
Set = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override a key, like training.max_minutes=1.")
]
Json = Annotated[bool, typer.Option("--json", help="One JSON document on standard output, all else on standard error.")]

Column = Annotated[str, typer.Option(help="The column of classes: `group`, or a kept one of strings.")]

DEFAULT_FILE = Path("pipelines.yaml")
HELD = 3


def main() -> None:
    """Run the command line; bad usage or configuration exits 2, a failure 1, each with one clear line."""
    watch.begin()
    app()


@app.callback()
def start() -> None:
    """Image–text pairs to cross-modal search, every night, unattended."""
    # Prefect would send usage data from here; who wants that can say DO_NOT_TRACK=0.
    os.environ.setdefault("DO_NOT_TRACK", "1")
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr, force=True)


@app.command()
def run(name: Name = None, file: File = DEFAULT_FILE, root: Root = None, set_: Set = None, json_: Json = False) -> None:
    """Run the whole night in this process: ingest, mine, train, evaluate, embed, release."""
    from flows.console import show_night
    from flows.nightly import nightly
    from flows.outcome import Night
    from flows.progress import run_flow

    def failed(reason: str) -> None:
        if json_:
            _print_json(Night.failed(name, reason).model_dump())

    with _errors(failed):
        night = run_flow(nightly, _writable(_pipeline(name, file, root, set_)), quiet=json_)
    _show(json_, night.model_dump(), lambda: show_night(night))
    raise typer.Exit(HELD if night.outcome == "held" else 0)


def _stage_command(stage: str, about: str) -> None:
    def command(
        name: Name = None, file: File = DEFAULT_FILE, root: Root = None, set_: Set = None, json_: Json = False
    ) -> None:
        _run_stage(stage, lambda: _writable(_pipeline(name, file, root, set_)), json_)

    app.command(stage, help=about)(command)


def _run_stage(stage: str, pipeline: Callable[[], "Pipeline"], json_: bool) -> None:
    from flows import stages
    from flows.console import show_ref
    from flows.progress import run_flow

    with _errors():
        ref = run_flow(getattr(stages, stage), pipeline(), quiet=json_)
    _show(json_, ref.model_dump(), lambda: show_ref(stage, ref))
    raise typer.Exit(HELD if stage == "evaluate" and not ref.passed else 0)


for _stage, _about in {
    "ingest": "Read the sources' new rows into the corpus.",
    "mine": "Mine positive and negative pairs of the current snapshot.",
    "train": "Train a challenger from the mined pairs.",
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
        return _run_stage("evaluate", lambda: _writable(_pipeline(name, file, root, set_)), json_)
    from flows.console import show_scores
    from flows.scoring import Owner, Question, score_question

    with _errors():
        if model is None or data is None:
            raise ValueError("scoring a model on a source takes both --model and --data")
        columns, measured = tuple(column or ()), (tuple(k or ()), tuple(slices or ()), tuple(probe or ()))
        question = Question(model, pretrained, data, base, where, columns, split, *measured)
        owner = Owner(file, name, root) if name else None
        scores = score_question(question, owner, set_ or (), quiet=json_)
    return _show(json_, scores.model_dump(), lambda: show_scores(scores))


@app.command()
def search(
    text: Annotated[str | None, typer.Argument(help="What to look for.")] = None,
    image: Annotated[Path | None, typer.Option(help="Look for what resembles this image file.")] = None,
    as_: Annotated[
        str | None,
        typer.Option("--as", metavar="VALUE", help="Which of two image towers encodes the file: that of this value."),
    ] = None,
    like: Annotated[str | None, typer.Option(metavar="ITEM_ID", help="Look for what resembles this item.")] = None,
    plus: Annotated[list[str] | None, typer.Option(metavar="TEXT", help="Add a text to the query.")] = None,
    minus: Annotated[list[str] | None, typer.Option(metavar="TEXT", help="Take a text from the query.")] = None,
    text_weight: Annotated[float, typer.Option(help="How much a text counts beside the image or item.")] = 1.0,
    k: Annotated[int, typer.Option("-k", min=1, max=10_000, help="How many items.")] = 10,
    where: Annotated[str | None, typer.Option(metavar="SQL", help="Only items for which this holds.")] = None,
    rerank: Annotated[bool, typer.Option("--rerank", help="Let the model's cross-encoder order the nearest.")] = False,
    candidates: Annotated[
        int | None, typer.Option(metavar="N", min=1, max=1_000, help="How many `--rerank` orders: 50 by default.")
    ] = None,
    metric: Annotated[
        Literal["cosine", "inner_product", "euclidean"],
        typer.Option(help="What the scores are; the hits are the same."),
    ] = "cosine",
    html: Annotated[
        Path | None, typer.Option(help="Write the hits with their pictures, and a map of all, to this page.")
    ] = None,
    method: Annotated[Literal["pca", "umap"], typer.Option("--map", help="How the page's map is laid out.")] = "pca",
    name: Name = None,
    file: File = DEFAULT_FILE,
    root: Root = None,
    json_: Json = False,
) -> None:
    """Find the nearest items of the current release, by text, by image or by item."""
    from flows.console import show_hits
    from search.map import ReleaseMap
    from search.query import Query
    from search.query import search as find
    from search.rerank import CANDIDATES
    from search.sheet import contact_sheet

    with _errors():
        if candidates is not None and not rerank:
            raise ValueError("--candidates says how many --rerank orders: give --rerank too")
        more, less = tuple(plus or ()), tuple(minus or ())
        query = Query(text, image, like, more, less, text_weight, image_as=as_)
        release = _release(name, file, root)
        reordered = (candidates or CANDIDATES) if rerank else None
        result = find(release, query, k=k, where=where, metric=metric, rerank=reordered)
        if html:
            page = contact_sheet([(query.title, result)], release_map=ReleaseMap(release, method=method))
            html.write_text(page, encoding="utf-8")
    _show(json_, result.to_json(), lambda: show_hits(result))


@app.command("map")
def map_(
    out: Annotated[Path, typer.Option(help="Where to write the picture.")] = Path("map.webp"),
    method: Annotated[Literal["pca", "umap"], typer.Option(help="How it is laid out; umap is an extra.")] = "pca",
    colour: Annotated[str | None, typer.Option(metavar="COLUMN", help="Colour the items by this column.")] = None,
    name: Name = None,
    file: File = DEFAULT_FILE,
    root: Root = None,
) -> None:
    """Draw a map of the current release, on which like images lie near one another."""
    from search.map import ReleaseMap
    from search.map_picture import map_picture

    with _errors():
        if out.suffix.lower() != ".webp":
            raise ValueError(f"the map is a WebP: name a file that ends in .webp, not {out}")
        release_map = ReleaseMap(_release(name, file, root), method=method, colour=colour)
        out.write_bytes(map_picture(release_map))
    typer.echo(f"{out}: {release_map.title}")


@app.command()
def sql(
    statement: Annotated[str, typer.Argument(metavar="SELECT", help="One SELECT over the table `items`.")],
    name: Name = None,
    file: File = DEFAULT_FILE,
    root: Root = None,
    json_: Json = False,
) -> None:
    """Query the current release with DuckDB.

    `search('text', k := 50)` is a table of hits, `similarity(image_vector, 'text')` a number.
    """
    from flows.console import show_rows
    from search.sql import json_rows, run_sql

    with _errors():
        rows = json_rows(run_sql(_release(name, file, root), statement))
    _show(json_, rows, lambda: show_rows(rows))


@app.command()
def words(
    word: Annotated[list[str], typer.Argument(metavar="WORD…", help="Words of the collection's texts.")],
    plus: Annotated[list[str] | None, typer.Option(metavar="WORD", help="Add a word to a sum of all.")] = None,
    minus: Annotated[list[str] | None, typer.Option(metavar="WORD", help="Take a word from a sum of all.")] = None,
    beside: Annotated[
        bool, typer.Option("--beside", help="What stands beside each word, rather than what is used alike.")
    ] = False,
    k: Annotated[int, typer.Option("-k", min=1, max=10_000, help="How many words.")] = 10,
    name: Name = None,
    file: File = DEFAULT_FILE,
    root: Root = None,
    json_: Json = False,
) -> None:
    """Show words that the collection's texts use alike, by vectors learned from these texts alone.

    Sums make analogies: `pairloom words king --minus man --plus woman`.
    """
    from flows.console import show_words
    from models.word_vectors import Question, ask
    from tasks.words import served_words

    with _errors():
        vectors = served_words(_writable(_pipeline(name, file, root)))
        answers = ask(vectors, Question(word, plus or (), minus or (), beside), k=k)
    _show(json_, [answer.model_dump(mode="json") for answer in answers], lambda: show_words(answers))


@app.command()
def classify(
    images: Annotated[list[Path], typer.Argument(help="Image files.")],
    column: Column = "group",
    threshold: Annotated[
        float | None, typer.Option(help="Least similarity to a class; else chosen on the validation items.")
    ] = None,
    name: Name = None,
    file: File = DEFAULT_FILE,
    root: Root = None,
    json_: Json = False,
) -> None:
    """Tell which class each image is of, or that it is of none.

    The classes are the release's groups and those of `pairloom classes add`.
    """
    from flows.console import show_classified
    from search.classify import classify as tell

    with _errors():
        found = tell(_release(name, file, root), images, column=column, threshold=threshold)
    _show(json_, found.to_json(), lambda: show_classified(found))


classes = typer.Typer(rich_markup_mode="markdown")
app.add_typer(classes, name="classes")


@classes.callback(invoke_without_command=True)
def list_classes(
    context: typer.Context,
    column: Column = "group",
    name: Name = None,
    file: File = DEFAULT_FILE,
    root: Root = None,
    json_: Json = False,
) -> None:
    """List the classes that `pairloom classify` knows; `add` and `remove` one of your own, with no training."""
    if context.invoked_subcommand:
        # Taken here they would be lost without a word.
        sources = [context.get_parameter_source(each) for each in context.params]
        if any(source is not None and source.name != "DEFAULT" for source in sources):
            raise typer.BadParameter(f"options come after `{context.invoked_subcommand}`")
        return
    from flows.console import show_rows
    from search.classify import Classes

    with _errors():
        rows = [row.model_dump() for row in Classes(_release(name, file, root), column).rows()]
    _show(json_, rows, lambda: show_rows(rows))


@classes.command("add")
def add_class(
    class_: Annotated[str, typer.Argument(metavar="NAME", help="Of a new class, or of one to give more examples.")],
    images: Annotated[list[Path], typer.Argument(help="A few image files.")],
    column: Column = "group",
    name: Name = None,
    file: File = DEFAULT_FILE,
    root: Root = None,
    json_: Json = False,
) -> None:
    """Add a class from a few examples: the next `pairloom classify` knows it."""
    from flows.console import show_rows
    from search.classify import add_examples

    with _errors():
        row = add_examples(_release(name, file, root), class_, images, column=column).model_dump()
    _show(json_, row, lambda: show_rows([row]))


@classes.command("remove")
def remove_class(
    class_: Annotated[str, typer.Argument(metavar="NAME", help="Of a class that was added.")],
    column: Column = "group",
    name: Name = None,
    file: File = DEFAULT_FILE,
    root: Root = None,
    json_: Json = False,
) -> None:
    """Take back the examples of an added class; the items of the release stay."""
    from flows.console import show_rows
    from storage.classes import ClassStore

    with _errors():
        row = {"name": class_.strip(), "removed": ClassStore(_folder(name, file, root)).remove(column, class_)}
    _show(json_, row, lambda: show_rows([row]))


@app.command()
def status(name: Name = None, file: File = DEFAULT_FILE, root: Root = None, json_: Json = False) -> None:
    """Show what is stored and what is served, of one pipeline or of all."""
    from flows.config import pipeline_names
    from flows.console import show_status
    from flows.history import pipeline_status

    with _errors():
        names = [name] if name else pipeline_names(file)
        states = [pipeline_status(_folder(each, file, root)) for each in names]
    _show(json_, states, lambda: show_status(states))


@app.command()
def releases(name: Name = None, file: File = DEFAULT_FILE, root: Root = None, json_: Json = False) -> None:
    """List the releases, newest first."""
    from flows.console import show_releases
    from flows.history import release_rows

    with _errors():
        rows = release_rows(_folder(name, file, root))
    _show(json_, rows, lambda: show_releases(rows))


@app.command()
def show(
    number: Annotated[int, typer.Argument(help="The release's number.")],
    name: Name = None,
    file: File = DEFAULT_FILE,
    root: Root = None,
    json_: Json = False,
) -> None:
    """Show one release: what it binds, how good it is, why it was made."""
    from flows.console import show_release
    from storage.releases import release_log

    with _errors():
        release = release_log(_folder(name, file, root)).read(number)
    _show(json_, release.model_dump(mode="json"), lambda: show_release(release))


@app.command()
def rollback(
    number: Annotated[int, typer.Argument(help="The release to go back to.")],
    name: Name = None,
    file: File = DEFAULT_FILE,
    root: Root = None,
    json_: Json = False,
) -> None:
    """Serve an earlier release again: a new record that names its content."""
    from flows.console import show_release
    from storage.releases import roll_back

    with _errors():
        release = roll_back(_folder(name, file, root), number)
    _show(json_, release.model_dump(mode="json"), lambda: show_release(release))


@app.command()
def deploy(
    name: Name = None,
    file: File = DEFAULT_FILE,
    root: Root = None,
    check: Annotated[bool, typer.Option("--check", help="Only check what would be deployed; needs no server.")] = False,
    json_: Json = False,
) -> None:
    """Register every pipeline's night, with its schedule, and its stages on the Prefect server."""
    from flows.config import pipeline_names
    from flows.deploy import deploy_pipelines, plan_deployments

    with _errors():
        pipelines = [_pipeline(each, file, root) for each in ([name] if name else pipeline_names(file))]
        rows = plan_deployments(pipelines) if check else deploy_pipelines(pipelines)
    from flows.console import show_rows

    _show(json_, rows, lambda: show_rows(rows))


@app.command()
def serve(name: Name = None, file: File = DEFAULT_FILE, root: Root = None) -> None:
    """Run a Prefect server, the schedules and the runs in this one process."""
    from flows.config import pipeline_names
    from flows.deploy import serve_pipelines

    with _errors():
        serve_pipelines([_pipeline(each, file, root) for each in ([name] if name else pipeline_names(file))])


@app.command()
def demo(
    root: Root = None,
    sheet: Annotated[Path, typer.Option(help="Where to write the page of hits.")] = Path("contact-sheet.html"),
) -> None:
    """From nothing to a searchable release of some thousand icons, in minutes on a laptop's CPU."""
    from flows.demo import run_demo

    with _errors():
        run_demo(root, sheet)


def _pipeline(name: str | None, file: Path, root: Path | None, overrides: list[str] | None = None) -> "Pipeline":
    from flows.config import load_pipeline

    return load_pipeline(file, name, root=root, overrides=overrides or ())


def _folder(name: str | None, file: Path, root: Path | None) -> Path:
    from flows.config import pipeline_folder

    return pipeline_folder(file, name, root=root)


def _writable(pipeline: "Pipeline") -> "Pipeline":
    from storage.files import make_writable

    make_writable(pipeline.folder)
    return pipeline


def _release(name: str | None, file: Path, root: Path | None) -> "OpenRelease":
    from search.release import OpenRelease

    return OpenRelease.open(_folder(name, file, root))


@contextmanager
def _errors(failed: Callable[[str], None] | None = None) -> Iterator[None]:
    """Turn an error into one clear line and the right exit status: 2 for bad input, 1 for a failure."""
    try:
        yield
    except (ValueError, RuntimeError, OSError) as error:
        reason = str(error) or type(error).__name__
        if failed:
            failed(reason)
        typer.echo(f"error: {reason}", err=True)
        raise typer.Exit(2 if isinstance(error, ValueError) else 1) from error


def _show(as_json: bool, document: Any, show_text: Callable[[], None]) -> None:
    if as_json:
        _print_json(document)
    else:
        show_text()


def _print_json(document: Any) -> None:
    sys.stdout.write(json.dumps(document, ensure_ascii=False, default=str) + "\n")
