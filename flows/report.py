"""The night's report: a Markdown artifact on the flow run's page, with counts, metrics and a contact sheet."""

import base64
import html

from prefect.artifacts import create_markdown_artifact
from prefect.context import FlowRunContext

from flows.outcome import Night
from search.query import Query, search
from search.release import OpenRelease
from search.sheet import contact_picture
from storage.corpus import Corpus
from tasks.pipeline import Pipeline

QUERIES = 6
HITS = 6


def report(pipeline: Pipeline, night: Night) -> None:
    """Attach the report to the flow run; without one there is no place for it."""
    if FlowRunContext.get() is None:
        return
    picture = contact_sheet(pipeline) if night.outcome == "released" else None
    create_markdown_artifact(
        markdown(night, picture), key=f"night-{pipeline.name}", description=f"{night.outcome}: {night.reason}"
    )


def contact_sheet(pipeline: Pipeline) -> bytes:
    """A picture of what the current release answers to a few validation texts."""
    release = OpenRelease.open(pipeline.folder)
    return contact_picture([(text, search(release, Query(text=text), k=HITS)) for text in sample_texts(pipeline)])


def sample_texts(pipeline: Pipeline) -> list[str]:
    """First texts of a few validation items, spread evenly; of training items where there are none."""
    corpus = Corpus(pipeline.folder)
    rows = corpus.table(corpus.current(), ["item_id", "texts", "split"]).to_pylist()
    chosen = [row for row in rows if row["split"] == "val"] or rows
    texts = sorted({row["texts"][0] for row in chosen})
    step = max(1, len(texts) // QUERIES)
    return texts[step // 2 :: step][:QUERIES]


def markdown(night: Night, picture: bytes | None) -> str:
    """The report as Markdown. Everything that came from outside is escaped."""
    release = f" · release {night.release}" if night.release else ""
    lines = [f"# {night.outcome} · {_escaped(night.pipeline)}{release}", "", _escaped(night.reason), ""]
    if night.model_id:
        lines += [f"Model `{night.model_id}`", ""]
    if picture:
        lines += [f"![results](data:image/jpeg;base64,{base64.b64encode(picture).decode()})", ""]
    lines += _table("rows", {name: f"{count:,}" for name, count in night.rows.items()})
    lines += _table("metric", {name: f"{value:.4f}" for name, value in night.metrics.items()})
    lines += _table("seconds", {name: f"{value:,.1f}" for name, value in night.seconds.items()})
    return "\n".join(lines)


def _table(title: str, rows: dict[str, str]) -> list[str]:
    if not rows:
        return []
    return [
        f"| {title} | |",
        "| --- | ---: |",
        *(f"| {_escaped(name)} | {value} |" for name, value in rows.items()),
        "",
    ]


def _escaped(text: str) -> str:
    """Text that Markdown shows as it is, on one line."""
    flat = html.escape(" ".join(text.split()))
    return "".join(f"\\{char}" if char in "\\`*_[]()#|!<>~" else char for char in flat)
