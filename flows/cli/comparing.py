"""The command that lays two releases side by side."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pairloom.flows.cli.answers import answer, errors_in_one_line, say_first
from pairloom.flows.cli.options import DEFAULT_FILE, File, Json, Name, Root, chosen_folder

if TYPE_CHECKING:
    from pairloom.search.query import Query

app = typer.Typer()


@app.command()
def diff(
    before: Annotated[int, typer.Argument(metavar="A", help="The number of one release.")],
    after: Annotated[int, typer.Argument(metavar="B", help="The number of another one, told as what changed since A.")],
    queries: Annotated[
        int, typer.Option(min=0, max=10_000, metavar="N", help="Ask both for so many texts of validation items.")
    ] = 50,
    seed: Annotated[int, typer.Option(min=0, help="Of the draw of these texts.")] = 0,
    name: Name = None,
    file: File = DEFAULT_FILE,
    root: Root = None,
    json_: Json = False,
) -> None:
    """Show what two releases differ in: rows, model, metrics, index, and how their answers moved."""
    say_first("diff")
    from pairloom.flows.show.diff import show_diff
    from pairloom.flows.show.progress import bar
    from pairloom.search.answer_diff import Questions
    from pairloom.search.diff import compare

    with errors_in_one_line():
        folder = chosen_folder(name, file, root)
        with bar("diff") as show:
            found = compare(folder, before, after, Questions(golden_queries(file, name), queries, seed), show)
    answer(json_, found.model_dump(mode="json"), lambda: show_diff(found))


def golden_queries(file: Path, name: str | None) -> list["Query"]:
    """What `evaluation.golden` of a pipeline asks; like all that only reads, it minds no other fault of the file."""
    from pairloom.flows.config import pipeline_block
    from pairloom.search.query import Query

    evaluation = pipeline_block(file, name).get("evaluation")
    golden = evaluation.get("golden") if isinstance(evaluation, dict) else None
    found = []
    for each in golden if isinstance(golden, list) else []:
        text, image, like = (each.get(key) if isinstance(each, dict) else None for key in ("text", "image", "like"))
        picture = file.parent / str(image) if image else None
        found.append(Query(text=str(text) if text else None, image=picture, like=str(like) if like else None))
    return found
