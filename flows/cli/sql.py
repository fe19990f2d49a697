"""The command that asks a release in SQL."""

from pathlib import Path
from typing import Annotated

import typer

from pairloom.flows.cli.answers import answer, errors_in_one_line
from pairloom.flows.cli.lean import reads_without_pandas
from pairloom.flows.cli.options import DEFAULT_FILE, File, Json, Name, Number, Root, chosen_release

app = typer.Typer()


@app.command()
def sql(
    statement: Annotated[str, typer.Argument(metavar="SELECT", help="One SELECT over `items` and its like.")],
    attach: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=FILE", help="Let it read a CSV or Parquet file as a table of this name."),
    ] = None,
    image_folder: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Let it name images below this folder.", file_okay=False)
    ] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write the rows to a .parquet, .csv, .json or .jsonl file.")
    ] = None,
    vertical: Annotated[
        bool | None,
        typer.Option("--vertical/--table", help="A block a row or a table; else what fits the terminal."),
    ] = None,
    number: Number = None,
    name: Name = None,
    file: File = DEFAULT_FILE,
    root: Root = None,
    json_: Json = False,
) -> None:
    """Query a release with DuckDB.

    Tables: `items`, `releases`, `metrics`, `quarantine`, `pairs`; `search('text', k := 50)`,
    `search_image('file.jpg')`, `search_like('item_id')`, `near_duplicates(0.95)`, `outliers(k := 20)`, `items_at(3)`.
    Values: `similarity(image_vector, 'text')`, `embed_text('text')`, `embed_image('file.jpg')`, `avg(image_vector)`.
    The release that the rows are of is told on standard error. More in docs/search.md and docs/sql-cookbook.md.
    """
    reads_without_pandas()
    from pairloom.flows.show.rows import show_result
    from pairloom.search.sql.attached import Attached, attached_files
    from pairloom.search.sql.export import export_sql
    from pairloom.search.sql.rows import json_rows, with_pictures
    from pairloom.search.sql.statement import run_sql

    with errors_in_one_line():
        attached = Attached(attached_files(attach or ()), image_folder)
        release = chosen_release(name, file, root, number)
        if out is not None:
            written = {"file": str(out), "rows": export_sql(release, statement, out, attached)}
            answer(json_, written, lambda: typer.echo(f"{out}: {written['rows']:,} rows"))
        else:
            rows = run_sql(release, statement, attached)
            document = json_rows(with_pictures(release, rows)) if json_ else None
            answer(json_, document, lambda: show_result(rows, vertical=vertical))
    typer.echo(f"release {release.record.number} · model {release.record.model_id}", err=True)
