"""The command that keeps a model loaded and answers line by line."""

import contextlib
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

import typer

from pairloom.flows.cli.answers import errors_in_one_line, say_first
from pairloom.flows.cli.options import DEFAULT_FILE, File, Name, Root, chosen_folder
from pairloom.storage.escaping import plain_lines
from pairloom.storage.secrets import redacted

if TYPE_CHECKING:
    from pairloom.flows.shell import Shell

app = typer.Typer()


@app.command()
def shell(name: Name = None, file: File = DEFAULT_FILE, root: Root = None) -> None:
    """Ask the current release line by line, with its model loaded once; `:help` says what a line may be.

    Lines may come from a file or a pipe; then the exit status is 2 where one of them could not be answered.
    """
    say_first("shell")
    from pairloom.flows.shell import Shell
    from pairloom.search.index import Index

    with errors_in_one_line():
        asked = Shell(Index.open(chosen_folder(name, file, root)))
    typed, failed = sys.stdin.isatty(), False
    for line in _typed(asked) if typed else sys.stdin:
        try:
            if not asked.take(line):
                break
        except (ValueError, RuntimeError, OSError, MemoryError) as error:
            failed = True
            typer.echo(f"error: {plain_lines(redacted(str(error)) or type(error).__name__)}", err=True)
    if failed and not typed:
        raise typer.Exit(2)


def _typed(asked: "Shell") -> Iterator[str]:
    """What a person types, until it ends."""
    with contextlib.suppress(ImportError):
        # Not everywhere: with it, lines can be edited, and earlier ones called back.
        import readline  # noqa: F401
    while True:
        try:
            yield input(asked.prompt)
        except EOFError:
            sys.stdout.write("\n")
            return
