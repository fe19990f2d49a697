"""The command that shows rows which are no items, writes them to a file, and has them tried again."""

from pathlib import Path
from typing import Annotated

import typer

from pairloom.flows.cli.answers import answer, errors_in_one_line
from pairloom.flows.cli.options import DEFAULT_FILE, File, Json, Name, Root, chosen_folder

app = typer.Typer()


@app.command()
def quarantine(
    reason: Annotated[str | None, typer.Option(metavar="CODE", help="Only rows rejected for this reason.")] = None,
    source: Annotated[str | None, typer.Option(metavar="LABEL", help="Only rows of this source.")] = None,
    limit: Annotated[int, typer.Option(min=0, metavar="N", help="List at most so many rows.")] = 20,
    export: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write all of them to a .csv, .json, .jsonl or .parquet file.")
    ] = None,
    retry: Annotated[
        bool, typer.Option("--retry", help="Have the next night try all quarantined images again.")
    ] = False,
    name: Name = None,
    file: File = DEFAULT_FILE,
    root: Root = None,
    json_: Json = False,
) -> None:
    """Show the rows that are no items: how many for which reason, what usually helps, and where they stand."""
    from pairloom.flows.show.rejections import quarantine_report, show_quarantine
    from pairloom.storage.quarantine import require_reason

    with errors_in_one_line():
        if reason is not None:
            require_reason(reason)
        folder = chosen_folder(name, file, root)
        found = quarantine_report(folder, reason=reason, source=source, limit=limit)
        if export is not None:
            found = found.model_copy(update={"exported": export_rows(folder, export, reason=reason, source=source)})
        if retry:
            found = found.model_copy(update={"retried": forget(folder, reason=reason, source=source)})
    answer(json_, found.model_dump(mode="json"), lambda: show_quarantine(found))


def export_rows(folder: Path, path: Path, *, reason: str | None, source: str | None) -> int:
    """Write the rejected rows of a pipeline to a file; returns how many."""
    from pairloom.storage.corpus import Corpus
    from pairloom.storage.exported import export
    from pairloom.storage.quarantine import RejectedRows

    corpus = Corpus(folder)
    rows = RejectedRows(corpus, corpus.current(), reason=reason, source=source).table()
    export(rows, path)
    return len(rows)


def forget(folder: Path, *, reason: str | None, source: str | None) -> int:
    """Have the next night try a pipeline's quarantined images again; returns how many."""
    from pairloom.storage.ingestion.forgetting import forget_rejections

    if source is not None:
        raise ValueError("--retry takes no --source: images are known by their files, whatever source names them")
    return forget_rejections(folder, reason)
