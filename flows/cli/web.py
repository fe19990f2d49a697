"""The command that serves the search page."""

import os
from typing import Annotated

import typer

from pairloom.flows.cli.answers import errors_in_one_line, say_first
from pairloom.flows.cli.options import DEFAULT_FILE, File, Name, Root, chosen_folder, chosen_pipeline
from pairloom.storage.escaping import plain_lines

app = typer.Typer()


@app.command()
def web(
    host: Annotated[
        str, typer.Option(help="The address to listen on; any but this machine's own needs a token.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65_535, help="The port; 0 takes a free one.")] = 8600,
    token: Annotated[
        str | None,
        typer.Option(envvar="PAIRLOOM_WEB_TOKEN", help="What callers must show; made up where one is needed."),
    ] = None,
    release: Annotated[int | None, typer.Option(min=1, metavar="N", help="Stay at this release.")] = None,
    name: Name = None,
    file: File = DEFAULT_FILE,
    root: Root = None,
) -> None:
    """Serve a search page and a JSON API over the current release, and go on with the nights."""
    say_first("web")
    # NumPy reads it when it is first imported. Products of one query are small; those of the data report, on all cores,
    # took twice as long and let answers wait for four times as long (benchmarks/web.md).
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    from pairloom import __version__
    from pairloom.search.web.config import WebConfig
    from pairloom.search.web.service import Service
    from pairloom.search.web.serving import serve, with_token

    with errors_in_one_line():
        if token is not None and len(token) < 16:
            raise ValueError("--token is shorter than 16 characters")
        config = with_token(WebConfig(host=host, port=port, token=token))
        try:
            sources = chosen_pipeline(name, file, root).sources
        except ValueError as error:
            # What is served can be read all the same.
            typer.echo(f"pictures of rejected rows are not shown: {plain_lines(str(error))}", err=True)
            sources = ()
        service = Service(chosen_folder(name, file, root), config, number=release, sources=sources)
        serve(service, lambda address: typer.echo(f"{address}  (Ctrl-C ends it)", err=True), version=__version__)
