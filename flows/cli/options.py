"""The options that commands share, and what they choose."""

# Light: every command imports it before it knows what it needs.
from datetime import date, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from pairloom.search.release import OpenRelease
    from pairloom.tasks.pipeline import Pipeline

Name = Annotated[
    str | None, typer.Option("--pipeline", "-p", help="Which pipeline; needed only where the file holds several.")
]
File = Annotated[Path, typer.Option("--file", envvar="PAIRLOOM_FILE", help="The file of pipelines.")]
Root = Annotated[
    Path | None,
    typer.Option("--root", envvar="PAIRLOOM_ROOT", help="Store under this folder instead of the file's `root`."),
]
Set = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override a key, like training.max_minutes=1.")
]
Accept = Annotated[
    bool,
    typer.Option("--accept-removals", help="Let items go whose rows are gone, however many (ingest.max_removed)."),
]
AcceptChanges = Annotated[
    bool,
    typer.Option("--accept-changes", help="Let tonight's rows in, whatever they are like (gate.rows.accept)."),
]
AsOf = Annotated[
    str | None,
    typer.Option(
        "--as-of",
        metavar="DATE[..DATE]",
        help="The day whose files are read, of sources with {date} in their path; of two days and those between, one "
        "after the other.",
    ),
]
Json = Annotated[bool, typer.Option("--json", help="One JSON document on standard output, all else on standard error.")]
Number = Annotated[
    int | None, typer.Option("--release", metavar="N", min=1, help="Ask release N instead of the current one.")
]
Column = Annotated[str, typer.Option(help="The column of classes: `group`, or a kept one of strings.")]

DEFAULT_FILE = Path("pipelines.yaml")


def chosen_pipeline(name: str | None, file: Path, root: Path | None, overrides: list[str] | None = None) -> "Pipeline":
    """The pipeline that the options choose, checked. Raises ValueError, naming file, pipeline and key."""
    from pairloom.flows.config import load_pipeline

    return load_pipeline(file, name, root=root, overrides=overrides or ())


def days(as_of: str | None) -> list[date | None]:
    """The days that `--as-of` names, in their order; today, as None, without it. Raises ValueError where it is none."""
    if as_of is None:
        return [None]
    first, _, last = as_of.partition("..")
    try:
        begin, end = date.fromisoformat(first), date.fromisoformat(last or first)
    except ValueError:
        raise ValueError(f"--as-of {as_of}: say a day, like 2026-11-03, or two, like 2026-11-01..2026-11-03") from None
    if end < begin:
        raise ValueError(f"--as-of {as_of}: the later day comes last")
    return [begin + timedelta(days=number) for number in range((end - begin).days + 1)]


def chosen_folder(name: str | None, file: Path, root: Path | None) -> Path:
    """Where the chosen pipeline stores everything; its configuration isn't checked."""
    from pairloom.flows.config import pipeline_folder

    return pipeline_folder(file, name, root=root)


def writable(pipeline: "Pipeline") -> "Pipeline":
    """The pipeline, once its folder can be written to. Raises ValueError where it can't."""
    from pairloom.storage.files import make_writable

    make_writable(pipeline.folder)
    return pipeline


def chosen_release(name: str | None, file: Path, root: Path | None, number: int | None = None) -> "OpenRelease":
    """The current release of the chosen pipeline, or that of a number."""
    from pairloom.search.release import OpenRelease

    return OpenRelease.open(chosen_folder(name, file, root), number)
