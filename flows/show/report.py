"""The night's report: a Markdown artifact on the flow run's page, with counts, metrics and a contact sheet."""

from collections.abc import Mapping, Sequence

import pyarrow as pa
from prefect.artifacts import create_markdown_artifact

from pairloom.flows.outcome import Night
from pairloom.flows.show.loss_curve import curve_section
from pairloom.flows.show.markdown import table
from pairloom.flows.show.metrics_table import metrics_grid, probes_grid, slices_grid
from pairloom.flows.show.mining_report import mining_section
from pairloom.models.evaluation.findings import Finding
from pairloom.search.map import ReleaseMap
from pairloom.search.map_picture import map_picture
from pairloom.search.own_items import shown_ids
from pairloom.search.query import Query, SearchResult, search
from pairloom.search.rehearsal import GoldenAnswer
from pairloom.search.release import OpenRelease
from pairloom.search.sheet import contact_picture, data_uri
from pairloom.storage.corpus import Corpus
from pairloom.storage.escaping import markdown_text, plain
from pairloom.storage.quarantine import ReasonCount
from pairloom.tasks.pipeline import Pipeline

QUERIES = 6
HITS = 8
SLICES = 10


def report(pipeline: Pipeline, night: Night) -> None:
    """Attach the report to the flow run that this is called in."""
    release = OpenRelease.open(pipeline.folder) if night.outcome == "released" else None
    answers = sample_answers(pipeline, release) if release else []
    learning = [*mining_section(pipeline, night.pairs_id), *curve_section(pipeline, night.trained)]
    create_markdown_artifact(
        markdown(night, answers, [*(map_section(release) if release else []), *learning]),
        key=f"night-{pipeline.name}".replace("_", "-"),
        description=plain(f"{night.outcome}: {night.reason}"),
    )


def sample_answers(pipeline: Pipeline, release: OpenRelease) -> list[tuple[str, SearchResult]]:
    """A few validation texts, each with what `release` answers."""
    return [(text, search(release, Query(text=text), k=HITS)) for text in sample_texts(pipeline)]


def map_section(release: OpenRelease) -> list[str]:
    """The lines of the map of `release`."""
    release_map = ReleaseMap(release)
    picture = data_uri(map_picture(release_map))
    about = markdown_text(release_map.title)
    return ["## Map", "", about, "", f"![Like images lie near one another]({picture})", ""]


def sample_texts(pipeline: Pipeline) -> list[str]:
    """First texts of a few validation items, spread evenly; of training items where there are none.

    A few parts are read, and of them one split, however large the corpus is.
    """
    corpus = Corpus(pipeline.folder)
    snapshot = corpus.current()
    parts = snapshot.parts[:: -(-len(snapshot.parts) // QUERIES) or 1]
    for split in ("val", "train"):
        among = ("split", pa.array([split]))
        batches = [batch for part in parts for batch in corpus.read(snapshot, part, ["texts"], among=among)]
        texts = sorted({own[0] for batch in batches for own in batch["texts"].to_pylist()})
        if texts:
            break
    step = max(1, len(texts) // QUERIES)
    return texts[step // 2 :: step][:QUERIES]


def markdown(night: Night, answers: Sequence[tuple[str, SearchResult]], learning: Sequence[str] = ()) -> str:
    """The report as Markdown. Everything that came from outside is escaped; `learning` is more of it, as lines."""
    release = f" · release {night.release}" if night.release else ""
    model = f" · model `{night.model_id}`" if night.model_id else ""
    lines = [
        f"# {markdown_text(night.pipeline)}: {night.outcome}{release}",
        "",
        f"{markdown_text(night.reason)}{model}",
        "",
    ]
    lines += table("rows", *_across({name: f"{count:,}" for name, count in night.rows.items()}))
    lines += table(
        "rejected", ["outcome", "rows", "for example", "what helps"], [_reason(each) for each in night.rejected]
    )
    if night.findings:
        lines += ["## Rows", ""]
        lines += table("measure", ["released", "tonight", ""], [_finding(each) for each in night.findings])
    for grid in (metrics_grid(night.metrics, night.intervals), probes_grid(night.metrics, night.intervals)):
        lines += table(grid.columns[0], grid.columns[1:], grid.rows)
    if night.floor:
        grid = metrics_grid(night.floor, {})
        lines += [markdown_text(night.floor_said), "", *table("textbook features", grid.columns[1:], grid.rows)]
    lines += [*(f"- {markdown_text(comparison)}" for comparison in night.comparisons), ""] if night.comparisons else []
    lines += table("golden query", ["found", "wanted", "at least", "nearest"], [_golden(each) for each in night.golden])
    if answers:
        picture = data_uri(contact_picture(answers, columns=HITS))
        best = [[text, *_best(result)] for text, result in answers]
        lines += ["## What it finds", "", f"![The nearest images of each text]({picture})", ""]
        lines += table("validation text", ["nearest item", "score"], best)
    slices = slices_grid(night.metrics, limit=SLICES)
    lines += table(slices.columns[0], slices.columns[1:], slices.rows)
    lines += learning
    if night.collected:
        lines += ["## Garbage", "", markdown_text(night.collected.summary), ""]
    lines += table("seconds", *_across({name: f"{value:,.1f}" for name, value in night.seconds.items()}))
    return "\n".join(lines)


def _best(result: SearchResult) -> list[str]:
    hit = result.hits[0] if result.hits else None
    return [hit.texts[0] if hit.texts else hit.item_id, f"{hit.score:.3f}"] if hit else ["–", "–"]


def _golden(answer: GoldenAnswer) -> list[str]:
    found = f"{answer.hits} of {len(answer.wanted)}"
    nearest = answer.error or shown_ids(answer.found)
    return [
        answer.query,
        f"missed: {found}" if answer.missed else found,
        shown_ids(answer.wanted),
        f"{answer.at_least} in {answer.k}",
        nearest,
    ]


def _reason(each: ReasonCount) -> list[str]:
    return [each.reason, each.outcome, f"{each.rows:,}", each.example, each.remedy]


def _finding(each: Finding) -> list[str]:
    return [
        each.measure,
        each.released,
        each.tonight,
        each.verdict if not each.reason else f"{each.verdict}: {each.reason}",
    ]


def _across(values: Mapping[str, str]) -> tuple[list[str], list[list[str]]]:
    """One row of named values."""
    return list(values), [["tonight", *values.values()]] if values else []
