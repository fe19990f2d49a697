"""The demo: from nothing to a searchable release of some thousand icons."""

import shutil
import sys
import time
from pathlib import Path

import pairloom
from pairloom.flows.config import load_pipeline, pipeline_names
from pairloom.flows.here import run_here
from pairloom.flows.icons import render_icons
from pairloom.flows.nightly import nightly
from pairloom.flows.outcome import Night
from pairloom.flows.show.console import out, show_night
from pairloom.flows.show.line import Line
from pairloom.flows.show.progress import bar
from pairloom.search.map import ReleaseMap
from pairloom.search.query import Query, SearchResult, search
from pairloom.search.release import OpenRelease
from pairloom.search.sheet import contact_sheet
from pairloom.storage.files import make_writable

SHIPPED = Path(pairloom.__file__).with_name("pipelines.yaml")
QUERIES = (
    Query(text="trash"),
    Query(text="arrow left"),
    Query(text="cloud rain"),
    Query(text="shopping cart"),
    Query(text="music note"),
    Query(text="chat bubble"),
    Query(text="bell", minus=("off",)),
)


def run_demo(root: Path | None, sheet: Path) -> Night:
    """Render the icons, run the night, ask a few queries, leave a page with the hits and say what to try next.

    A night that was held and has nothing before it to serve ends it early.
    """
    started = time.monotonic()
    pipeline = load_pipeline(_file(), "demo", root=root)
    make_writable(pipeline.folder)
    with bar("render") as show:
        count = render_icons(pipeline.sources[0].files[0].parent, progress=show)
    out.print(Line(f"{count:,} icons rendered from the fonts that qtawesome carries"))
    night = run_here(nightly, pipeline, quiet=False)
    show_night(night)
    if night.outcome == "held" and night.release is None:
        return night
    release = OpenRelease.open(pipeline.folder)
    answers = [(query.title, search(release, query)) for query in QUERIES]
    page = contact_sheet(answers, title="Pairloom demo", release_map=ReleaseMap(release))
    sheet.write_text(page, encoding="utf-8")
    for title, result in answers:
        out.print(Line(f"{title:<26} {first_texts(result)}"), overflow="ellipsis", no_wrap=True)
    out.print()
    out.print(Line(f"Done in {time.monotonic() - started:,.0f} seconds. Open {sheet} to see the hits. Then try:"))
    name = "pairloom" if shutil.which("pairloom") == sys.argv[0] else sys.argv[0]
    there = f" --root {root}" if root else ""
    for command in NEXT:
        out.print(Line(f"  {name} {command}{there}", style="bold"))
    return night


NEXT = (
    'search "bicycle" -p demo',
    'search "bell" --minus "off" -p demo --html bell.html',
    "sql \"SELECT family, count(*) AS icons FROM search('calendar', k := 50) GROUP BY family\" -p demo",
    "status -p demo",
    "run -p demo",
)


def _file() -> Path:
    """The working directory's file of pipelines, written where there is none."""
    file = Path("pipelines.yaml")
    if not file.exists():
        file.write_bytes(SHIPPED.read_bytes())
    if "demo" not in pipeline_names(file):
        raise ValueError(f"{file.resolve()} holds other pipelines: run the demo in a folder of its own")
    return file


def first_texts(result: SearchResult) -> str:
    """The first text of each hit."""
    return " · ".join(hit.texts[0] for hit in result.hits)
