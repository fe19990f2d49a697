"""How a command answers: a table for people or one JSON document, an error in one line, an exit status."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import typer

from pairloom.flows.held import HeldError
from pairloom.storage.escaping import json_text, plain_lines
from pairloom.storage.secrets import redacted

HELD = 3


def say_first(command: str) -> None:
    """A sign of life on standard error, before anything is imported that people would wait for."""
    typer.echo(f"{command}: starting …", err=True)


@contextmanager
def errors_in_one_line(failed: Callable[[str], None] | None = None) -> Iterator[None]:
    """Turn an error into one clear line and an exit status: 2 for bad input, 3 where a gate held, 1 for a failure."""
    try:
        yield
    except (ValueError, RuntimeError, OSError, MemoryError) as error:
        reason = redacted(str(error)) or type(error).__name__
        if failed:
            failed(reason)
        typer.echo(f"error: {plain_lines(reason)}", err=True)
        held = isinstance(error, HeldError)
        raise typer.Exit(HELD if held else 2 if isinstance(error, ValueError) else 1) from error


def answer(as_json: bool, document: Any, show_text: Callable[[], None]) -> None:
    """Show what a command found: the document as JSON, or a text for people."""
    if as_json:
        print_json(document)
    else:
        show_text()


def print_json(document: Any) -> None:
    """Write one JSON document to standard output."""
    sys.stdout.write(json_text(document) + "\n")
