"""The classes that `pairloom classify` tells apart: listed, added, taken back."""

from pathlib import Path
from typing import Annotated

import typer

from pairloom.flows.cli.answers import answer, errors_in_one_line
from pairloom.flows.cli.options import DEFAULT_FILE, Column, File, Json, Name, Root, chosen_folder, chosen_release

classes = typer.Typer(rich_markup_mode="markdown")


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
    from pairloom.flows.show.console import show_rows
    from pairloom.search.classify import Classes

    with errors_in_one_line():
        rows = [row.model_dump() for row in Classes(chosen_release(name, file, root), column).rows()]
    answer(json_, rows, lambda: show_rows(rows))


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
    from pairloom.flows.show.console import show_rows
    from pairloom.search.classify import add_examples

    with errors_in_one_line():
        row = add_examples(chosen_release(name, file, root), class_, images, column=column).model_dump()
    answer(json_, row, lambda: show_rows([row]))


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
    from pairloom.flows.show.console import show_rows
    from pairloom.storage.classes import ClassStore

    with errors_in_one_line():
        row = {"name": class_.strip(), "removed": ClassStore(chosen_folder(name, file, root)).remove(column, class_)}
    answer(json_, row, lambda: show_rows([row]))
