"""The command that writes a release in forms that need nothing of ours."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from pairloom.flows.cli.answers import answer, errors_in_one_line, say_first
from pairloom.flows.cli.options import DEFAULT_FILE, File, Json, Name, Root, chosen_release
from pairloom.storage.escaping import plain

app = typer.Typer()


@app.command()
def export(
    out: Annotated[Path, typer.Option(metavar="DIR", help="A new or empty folder to write into.")],
    kind: Annotated[
        Literal["parquet", "usearch", "page"],
        typer.Option("--format", help="One Parquet file, usearch indexes, or a page that needs no server."),
    ] = "parquet",
    where: Annotated[str | None, typer.Option(metavar="SQL", help="Only items for which this holds.")] = None,
    name: Name = None,
    file: File = DEFAULT_FILE,
    root: Root = None,
    json_: Json = False,
) -> None:
    """Write the current release into a folder: its items, vectors and pictures, readable without Pairloom."""
    say_first("export")
    from pairloom.flows.show.progress import bar
    from pairloom.search.export.release_files import export_release

    with errors_in_one_line():
        release = chosen_release(name, file, root)
        with bar("export") as progress:
            done = export_release(release, out, kind=kind, where=where, progress=progress)
    said = f"{done.folder}: {done.items:,} items of release {done.release}, {done.files:,} files, {done.bytes:,} bytes"
    answer(json_, done.model_dump(mode="json"), lambda: typer.echo(plain(said)))
