"""The command line: doors to the flows and to the read side, one short function a command."""

# This package stays light: decoding starts child processes, and each imports it again as its main module.
import logging
import os
import sys
from typing import Annotated

import typer

from pairloom.flows.cli import (
    approval,
    classes,
    comparing,
    exporting,
    garbage,
    quarantine,
    reading,
    running,
    shell,
    sql,
    upkeep,
    web,
)
from pairloom.flows.interrupt import watch
from pairloom.storage.secrets import SafeFormatter

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(running.app)
app.add_typer(reading.app)
app.add_typer(sql.app)
app.add_typer(shell.app)
app.add_typer(exporting.app)
app.add_typer(approval.app)
app.add_typer(comparing.app)
app.add_typer(quarantine.app)
app.add_typer(upkeep.app)
app.add_typer(garbage.app)
app.add_typer(web.app)
app.add_typer(classes.classes, name="classes")


def main() -> None:
    """Run the command line; bad usage or configuration exits 2, a failure 1, each with one clear line."""
    watch.begin()
    app()


def _show_version(asked: bool) -> None:
    from pairloom.tasks.version import version

    if asked:
        typer.echo(version())
        raise typer.Exit


@app.callback()
def start(
    _: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show version and commit.")
    ] = False,
) -> None:
    """Image–text pairs to cross-modal search, every night, unattended."""
    # Prefect would send usage data from here; who wants that can say DO_NOT_TRACK=0.
    os.environ.setdefault("DO_NOT_TRACK", "1")
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(SafeFormatter("%(message)s"))
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
