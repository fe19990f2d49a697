"""Commands that only read: the state, the releases, and questions to the current one."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Literal

import typer

from pairloom.flows.cli.answers import answer, errors_in_one_line, say_first
from pairloom.flows.cli.lean import reads_without_pandas
from pairloom.flows.cli.options import (
    DEFAULT_FILE,
    Column,
    File,
    Json,
    Name,
    Number,
    Root,
    chosen_folder,
    chosen_pipeline,
    chosen_release,
    writable,
)
from pairloom.storage.escaping import plain

app = typer.Typer()


@app.command()
def search(
    text: Annotated[str | None, typer.Argument(help="What to look for; `2:red shoe` counts twice.")] = None,
    image: Annotated[
        list[str] | None, typer.Option(metavar="FILE", help="Look for what resembles this image; repeatable.")
    ] = None,
    as_: Annotated[
        str | None,
        typer.Option("--as", metavar="VALUE", help="Which of two image towers encodes the file: that of this value."),
    ] = None,
    like: Annotated[str | None, typer.Option(metavar="ITEM_ID", help="Look for what resembles this item.")] = None,
    plus: Annotated[list[str] | None, typer.Option(metavar="TEXT", help="Add a text to the query.")] = None,
    minus: Annotated[list[str] | None, typer.Option(metavar="TEXT", help="Take a text from the query.")] = None,
    text_weight: Annotated[float, typer.Option(help="How much a text counts beside the image or item.")] = 1.0,
    k: Annotated[int, typer.Option("-k", min=1, max=10_000, help="How many items.")] = 10,
    offset: Annotated[int, typer.Option(min=0, help="Pass over so many: `--offset 10` is the second page.")] = 0,
    where: Annotated[str | None, typer.Option(metavar="SQL", help="Only items for which this holds.")] = None,
    column: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="Show this column; by default the pipeline's own.")
    ] = None,
    target: Annotated[
        Literal["image", "text"], typer.Option(help="Compare with the items' images, or with their texts.")
    ] = "image",
    hybrid: Annotated[bool, typer.Option("--hybrid", help="Find items that hold the words of the text, too.")] = False,
    diversity: Annotated[float, typer.Option(min=0, max=1, help="How much hits differ from one another.")] = 0.0,
    collapse_duplicates: Annotated[
        bool, typer.Option("--collapse-duplicates", help="Show one of the hits that have the same picture.")
    ] = False,
    rerank: Annotated[bool, typer.Option("--rerank", help="Let the model's cross-encoder order the nearest.")] = False,
    candidates: Annotated[
        int | None, typer.Option(metavar="N", min=1, max=1_000, help="How many `--rerank` orders: 50 by default.")
    ] = None,
    metric: Annotated[
        Literal["cosine", "inner_product", "euclidean"],
        typer.Option(help="What the scores are; the hits are the same."),
    ] = "cosine",
    hubness: Annotated[
        bool | None,
        typer.Option(help="Whether images near many texts stand further back for each; else as the release says."),
    ] = None,
    only_fitting: Annotated[
        bool, typer.Option("--only-fitting", help="Leave out hits below the release's cut-off: nothing may fit.")
    ] = False,
    html: Annotated[
        Path | None, typer.Option(help="Write the hits with their pictures, and a map of all, to this page.")
    ] = None,
    method: Annotated[Literal["pca", "umap"], typer.Option("--map", help="How the page's map is laid out.")] = "pca",
    pictures: Annotated[
        bool | None, typer.Option(help="Small pictures in the terminal; by default where it shows real ones.")
    ] = None,
    number: Number = None,
    name: Name = None,
    file: File = DEFAULT_FILE,
    root: Root = None,
    json_: Json = False,
) -> None:
    """Find the nearest items of the current release, by text, by image or by item."""
    say_first("search")
    reads_without_pandas()
    from pairloom.flows.show.console import show_hits
    from pairloom.flows.show.pictures import require_pictures
    from pairloom.search.asking import asked_for, named_picture
    from pairloom.search.options import Options
    from pairloom.search.query import answer as find
    from pairloom.search.rerank import CANDIDATES

    with errors_in_one_line():
        if candidates is not None and not rerank:
            raise ValueError("--candidates says how many --rerank orders: give --rerank too")
        if html:
            from pairloom.models.evaluation.projection import require_method

            require_method(method)
        if pictures:
            require_pictures()
        files = [named_picture(each) for each in image or ()]
        query = replace(
            asked_for(text, image=files or None, like=like, plus=plus or (), minus=minus or ()),
            text_weight=text_weight,
            image_as=as_,
        )
        options = Options(
            k=k,
            offset=offset,
            where=where,
            columns=tuple(column) if column else None,
            metric=metric,
            rerank=(candidates or CANDIDATES) if rerank else None,
            hybrid=hybrid,
            diversity=diversity,
            collapse_duplicates=collapse_duplicates,
            target=target,
            hubness=hubness,
            only_fitting=only_fitting,
        )
        release = chosen_release(name, file, root, number)
        result = find(release, query, options)
        if html:
            from pairloom.search.map import ReleaseMap
            from pairloom.search.sheet import contact_sheet

            page = contact_sheet([(query.title, result)], release_map=ReleaseMap(release, method=method))
            html.write_text(page, encoding="utf-8")
    answer(json_, result.to_json(), lambda: show_hits(result, pictures=pictures))


@app.command("map")
def map_(
    out: Annotated[Path, typer.Option(help="Where to write the picture.")] = Path("map.webp"),
    method: Annotated[Literal["pca", "umap"], typer.Option(help="How it is laid out; umap is an extra.")] = "pca",
    colour: Annotated[str | None, typer.Option(metavar="COLUMN", help="Colour the items by this column.")] = None,
    html: Annotated[
        Path | None, typer.Option(help="Write a page instead, on which the map can be enlarged and pointed at.")
    ] = None,
    name: Name = None,
    file: File = DEFAULT_FILE,
    root: Root = None,
) -> None:
    """Draw a map of the current release, on which like images lie near one another."""
    say_first("map")
    from pairloom.models.evaluation.projection import require_method
    from pairloom.search.map import ReleaseMap
    from pairloom.search.map_page import map_page
    from pairloom.search.map_picture import map_picture

    with errors_in_one_line():
        if out.suffix.lower() != ".webp":
            raise ValueError(f"the map is a WebP: name a file that ends in .webp, not {out}")
        require_method(method)
        release_map = ReleaseMap(chosen_release(name, file, root), method=method, colour=colour)
        if html:
            html.write_text(map_page(release_map), encoding="utf-8")
        else:
            out.write_bytes(map_picture(release_map))
    typer.echo(plain(f"{html or out}: {release_map.title}"))


@app.command()
def words(
    word: Annotated[list[str], typer.Argument(metavar="WORD…", help="Words of the collection's texts.")],
    plus: Annotated[list[str] | None, typer.Option(metavar="WORD", help="Add a word to a sum of all.")] = None,
    minus: Annotated[list[str] | None, typer.Option(metavar="WORD", help="Take a word from a sum of all.")] = None,
    beside: Annotated[
        bool, typer.Option("--beside", help="What stands beside each word, rather than what is used alike.")
    ] = False,
    k: Annotated[int, typer.Option("-k", min=1, max=10_000, help="How many words.")] = 10,
    name: Name = None,
    file: File = DEFAULT_FILE,
    root: Root = None,
    json_: Json = False,
) -> None:
    """Show words that the collection's texts use alike, by vectors learned from these texts alone.

    Sums make analogies: `pairloom words king --minus man --plus woman`.
    """
    say_first("words")
    from pairloom.flows.show.console import show_words
    from pairloom.models.towers.word_vectors import Question, ask
    from pairloom.tasks.words import served_words

    with errors_in_one_line():
        vectors = served_words(writable(chosen_pipeline(name, file, root)))
        answers = ask(vectors, Question(word, plus or (), minus or (), beside), k=k)
    answer(json_, [answer.model_dump(mode="json") for answer in answers], lambda: show_words(answers))


@app.command()
def classify(
    images: Annotated[list[Path], typer.Argument(help="Image files.")],
    column: Column = "group",
    threshold: Annotated[
        float | None, typer.Option(help="Least similarity to a class; else chosen on the validation items.")
    ] = None,
    name: Name = None,
    file: File = DEFAULT_FILE,
    root: Root = None,
    json_: Json = False,
) -> None:
    """Tell which class each image is of, or that it is of none.

    The classes are the release's groups and those of `pairloom classes add`.
    """
    say_first("classify")
    from pairloom.flows.show.console import show_classified
    from pairloom.search.classify import classify as tell

    with errors_in_one_line():
        found = tell(chosen_release(name, file, root), images, column=column, threshold=threshold)
    answer(json_, found.to_json(), lambda: show_classified(found))


@app.command()
def status(name: Name = None, file: File = DEFAULT_FILE, root: Root = None, json_: Json = False) -> None:
    """Show what is stored and what is served, of one pipeline or of all; exit status 1 where one can't be told."""
    from pairloom.flows.config import pipeline_names
    from pairloom.flows.show.console import show_status
    from pairloom.flows.show.history import status_or_error

    with errors_in_one_line():
        names = [name] if name else pipeline_names(file)
        states = [status_or_error(chosen_folder(each, file, root)) for each in names]
    answer(json_, states, lambda: show_status(states))
    with errors_in_one_line():
        if wrong := [f"{state['pipeline']}: {state['error']}" for state in states if "error" in state]:
            raise RuntimeError("\n".join(wrong))


@app.command()
def releases(name: Name = None, file: File = DEFAULT_FILE, root: Root = None, json_: Json = False) -> None:
    """List the releases, newest first; above them the challenger that waits for approval."""
    from pairloom.flows.show.console import show_rows
    from pairloom.flows.show.history import release_rows

    with errors_in_one_line():
        rows = release_rows(chosen_folder(name, file, root))
    answer(json_, rows, lambda: show_rows([{**row, "release": row["release"] or "waits"} for row in rows]))


@app.command()
def show(
    number: Annotated[int, typer.Argument(help="The release's number.")],
    files: Annotated[
        bool, typer.Option("--files", help="List the files of its items, with the rows that are none any more.")
    ] = False,
    name: Name = None,
    file: File = DEFAULT_FILE,
    root: Root = None,
    json_: Json = False,
) -> None:
    """Show one release: what it binds, how good it is, why it was made, and what it came from."""
    from pairloom.flows.show.console import show_corpus_files, show_release
    from pairloom.flows.show.lineage import release_document, show_lineage
    from pairloom.storage.export import released_files
    from pairloom.storage.releases import release_log

    with errors_in_one_line():
        folder = chosen_folder(name, file, root)
        release = release_log(folder).read(number)
        parts = released_files(folder, release) if files else []
    if files:
        answer(json_, [each.model_dump(mode="json") for each in parts], lambda: show_corpus_files(parts))
    else:
        document = release_document(folder, release)

        def show_text() -> None:
            show_release(release)
            show_lineage(document["lineage"])

        answer(json_, document, show_text)
