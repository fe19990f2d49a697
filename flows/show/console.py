"""What the command line shows a person: tables, in the terminal's width."""

from collections.abc import Mapping, Sequence
from textwrap import shorten
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel
from rich.console import Console
from rich.padding import Padding
from rich.table import Table

from pairloom.flows.show.line import Line
from pairloom.flows.show.metrics_table import Grid, Intervals, metrics_grid, probes_grid, slices_grid
from pairloom.flows.show.pictures import shown_pictures

if TYPE_CHECKING:
    from pairloom.flows.outcome import Night
    from pairloom.models.towers.word_vectors import Answer
    from pairloom.search.classify import Classified
    from pairloom.search.query import SearchResult
    from pairloom.storage.export import CorpusFile
    from pairloom.storage.quarantine import ReasonCount
    from pairloom.storage.releases import Release
    from pairloom.tasks.evaluation.scoring import Scores

SLICES = 12
OWN_COLUMNS = 4
"""Of a pipeline, shown beside its hits: no more fit a terminal."""
MEASURED = ("metrics", "intervals", "champion_metrics", "champion_intervals")

out = Console()


def show_night(night: "Night") -> None:
    """How a night ended."""
    colour = {"released": "green", "held": "yellow", "unchanged": "cyan"}.get(night.outcome, "red")
    release = f" · release {night.release}" if night.release else ""
    out.print(Line.assemble((night.outcome, f"bold {colour}"), f" · {night.pipeline}{release} · {night.reason}"))
    out.print(Line("rows     " + " · ".join(f"{count:,} {name}" for name, count in night.rows.items())))
    show_rejected(night.rejected)
    show_metrics(night.metrics, night.intervals)
    if night.floor_said:
        out.print(Line(f"floor    {night.floor_said}"))
    for comparison in night.comparisons:
        out.print(Line(f"         {comparison}"))
    if night.golden:
        missed = sum(answer.missed for answer in night.golden)
        out.print(
            Line(f"golden   {len(night.golden) - missed:,} of {len(night.golden):,} queries found what they must")
        )
    out.print(Line("seconds  " + " · ".join(f"{stage} {value:,.1f}" for stage, value in night.seconds.items())))


def show_rejected(counts: Sequence["ReasonCount"]) -> None:
    """Why rows are no items, beside duplicates, and what usually helps against the most frequent fault."""
    if rejected := [each for each in counts if each.outcome != "duplicate"]:
        out.print(Line("rejected " + " · ".join(f"{each.rows:,} {each.reason}" for each in rejected)))
        if rejected[0].outcome == "quarantined":
            for said in (f"e.g. {rejected[0].example}", f"{rejected[0].remedy} All of them: pairloom quarantine"):
                out.print(Padding(Line(said, overflow="fold"), (0, 0, 0, 9), expand=False))


def show_ref(stage: str, ref: BaseModel) -> None:
    """What a stage left."""
    found = ref.model_dump(exclude={"rejected", "floor"})
    facts = {name: value for name, value in found.items() if name not in MEASURED and value not in ({}, (), None, "")}
    out.print(Line(stage, style="bold"))
    for name, value in facts.items():
        out.print(Line(f"  {name}: {short(value)}"))
    show_rejected(getattr(ref, "rejected", ()))
    for metrics, intervals in zip(MEASURED[::2], MEASURED[1::2], strict=True):
        if found.get(metrics):
            out.print(Line(metrics.replace("_metrics", "").replace("metrics", "challenger"), style="bold"))
            show_metrics(found[metrics], found[intervals])
    if floor := getattr(ref, "floor", None):
        out.print(Line("floor", style="bold"))
        out.print(Line(f"  {floor.summary}"))


def show_scores(scores: "Scores") -> None:
    """How good a model is on a source."""
    asked = f" · {scores.split} items" if scores.split else ""
    out.print(Line.assemble((scores.model, "bold"), f" on {scores.data}{asked}"), overflow="fold")
    counted = (f"{count:,} {name}" for name, count in scores.rows.items() if count or name in ("seen", "scored"))
    out.print(Line(f"rows     {' · '.join(counted)}"))
    if scores.rejected:
        out.print(Line("rejected " + " · ".join(f"{count:,} {reason}" for reason, count in scores.rejected.items())))
    show_metrics({**scores.metrics, **scores.probes}, scores.intervals)
    if (slices := slices_grid(scores.metrics, limit=SLICES)).rows:
        show_grid(slices)
    out.print(Line("seconds  " + " · ".join(f"{stage} {value:,.1f}" for stage, value in scores.seconds.items())))


def show_hits(result: "SearchResult", *, pictures: bool | None = None) -> None:
    """The hits of one query, with the first of the columns that they bring; those that don't fit are marked.

    `pictures` as `shown_pictures` takes it.
    """
    from pairloom.search.results import shown_value

    names = [name for name in (result.hits[0].metadata if result.hits else ()) if name not in ("texts", "item_id")]
    small = shown_pictures([hit.thumbnail for hit in result.hits], wanted=pictures)
    table = Table(box=None, header_style="bold", pad_edge=False)
    for title, options in (("score", {"justify": "right"}), ("item", {"overflow": "fold"}), ("texts", {"ratio": 1})):
        table.add_column(title, **options)
    for name in names[:OWN_COLUMNS]:
        table.add_column(Line(name), overflow="fold", max_width=24)
    if small:
        table.add_column("")
    for place, hit in enumerate(result.hits):
        copies = f" +{len(hit.collapsed)} of the same picture" if hit.collapsed else ""
        unfit = hit.fits is False
        table.add_row(
            f"{'~ ' if unfit else ''}{hit.shown_score:.3f}",
            Line(hit.item_id),
            Line(shorten(" · ".join(hit.texts), 120, placeholder=" …") + copies),
            *(Line(shown_value(hit.metadata[name])) for name in names[:OWN_COLUMNS]),
            *([small[place]] if small else ()),
            style="dim" if unfit else "",
        )
    out.print(table)
    for note in result.notes:
        out.print(Line(note))
    where = [f"where {result.where}"] if result.where is not None else []
    more = [f"more columns: {', '.join(names[OWN_COLUMNS:])}"] if len(names) > OWN_COLUMNS else []
    hits = [f"hits {result.offset + 1} to {result.offset + len(result.hits)}"] if result.offset and result.hits else []
    about = [f"release {result.release}", f"model {result.model_id}"]
    out.print(Line(" · ".join([*where, *more, *hits, *about]), style="dim"))


def show_classified(found: "Classified") -> None:
    """What every image was told to be."""
    table = Table(box=None, header_style="bold", pad_edge=False)
    for title in ("image", "class", "score", "second best", "score"):
        table.add_column(title, justify="right" if title == "score" else "left", overflow="fold")
    for each in found.images:
        told = Line(each.name) if each.name is not None else Line("unknown", style="yellow")
        second = (each.second, f"{each.second_score:.3f}") if each.second is not None else ("", "")
        table.add_row(Line(each.image), told, Line(f"{each.score:.3f}"), *map(Line, second))
    out.print(table)
    out.print(Line(f"release {found.release} · model {found.model_id} · {found.threshold}", style="dim"))


def show_words(answers: Sequence["Answer"]) -> None:
    """The words found for each question."""
    for answer in answers:
        rows = tuple((each.word, f"{each.score:.3f}", f"{each.count:,}") for each in answer.neighbours)
        show_grid(Grid((answer.query, "score", "in texts"), rows))


def show_rows(rows: Sequence[Mapping[str, Any]]) -> None:
    """Rows as a table."""
    if not rows:
        out.print("no rows")
        return
    table = Table(box=None, header_style="bold", pad_edge=False)
    for name in rows[0]:
        table.add_column(Line(name), overflow="fold")
    for row in rows:
        table.add_row(*(Line(short(value)) for value in row.values()))
    out.print(table)


def show_corpus_files(files: Sequence["CorpusFile"]) -> None:
    """The files of a release's items: their folder, then a row each."""
    if files:
        out.print(Line(f"{files[0].path.parent}/"), soft_wrap=True)
    show_rows(
        [{"file": each.path.name, "rows": each.rows, "items": each.living, "gone": len(each.gone)} for each in files]
    )


def show_status(states: Sequence[Mapping[str, Any]]) -> None:
    """What is stored and served, a block a pipeline."""
    for state in states:
        out.print(Line.assemble((state["pipeline"], "bold"), f"  {state['folder']}"))
        for name, value in state.items():
            if name not in ("pipeline", "folder", "metrics"):
                out.print(Line(f"  {name:<12} {short(value)}"))
        show_metrics(state.get("metrics", {}), {})


def show_release(release: "Release") -> None:
    """One release."""
    facts = release.model_dump(mode="json", exclude={"files", "metrics", "intervals", "lineage"})
    out.print(Line.assemble((f"release {release.number}", "bold")))
    for name, value in facts.items():
        if value is not None:
            out.print(Line(f"  {name:<16} {short(value)}"))
    out.print(Line(f"  {'files':<16} {len(release.files)}, {sum(f.bytes for f in release.files.values()):,} bytes"))
    show_metrics(release.metrics, release.intervals)


def show_metrics(metrics: Mapping[str, float], intervals: Intervals) -> None:
    """What all queries and probes got, as tables."""
    for grid in (metrics_grid(metrics, intervals), probes_grid(metrics, intervals)):
        if grid.rows:
            show_grid(grid)


def show_grid(grid: Grid) -> None:
    """A table of text, numbers to the right."""
    table = Table(box=None, header_style="bold", pad_edge=False)
    for number, title in enumerate(grid.columns):
        table.add_column(Line(title), justify="right" if number else "left", overflow="fold", no_wrap=number > 0)
    for row in grid.rows:
        table.add_row(*map(Line, row))
    out.print(table)


def short(value: Any) -> str:
    """A value on one line; no more than six of a list."""
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {short(each)}" for name, each in value.items())
    if isinstance(value, list | tuple):
        shown = ", ".join(short(each) for each in value[:6])
        return f"{shown}, … ({len(value)})" if len(value) > 6 else shown
    return f"{value:.4f}" if isinstance(value, float) else str(value)
