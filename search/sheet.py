"""Search results as something to look at: one web page in one file, or one small picture."""

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw, ImageFont

from pairloom.search.map import ReleaseMap
from pairloom.search.map_picture import HEIGHT, WIDTH, map_picture, plotted
from pairloom.search.picture import fitting, paste, webp
from pairloom.search.query import Hit, SearchResult
from pairloom.storage.escaping import html_text

Titled = tuple[str, SearchResult]


@dataclass(frozen=True)
class Pair:
    """Two pictures to be seen beside one another."""

    title: str
    pictures: tuple[Image.Image, Image.Image]
    texts: tuple[str, str]


_STYLE = """
:root { color-scheme: light dark; --back: #fafaf8; --card: #fff; --ink: #1c1c1a; --soft: #6b6a63; --line: #e4e2da; }
@media (prefers-color-scheme: dark) {
  :root { --back: #161614; --card: #21211e; --ink: #edece6; --soft: #a3a196; --line: #35342f; }
}
* { box-sizing: border-box; }
body { margin: 0; background: var(--back); color: var(--ink); font: 15px/1.45 system-ui, sans-serif; }
main { max-width: 1200px; margin: 0 auto; padding: 24px 16px 48px; }
h1 { font-size: 1.35rem; margin: 0; }
h2 { font-size: 1.05rem; margin: 36px 0 12px; overflow-wrap: anywhere; }
.soft { color: var(--soft); font-size: .85rem; overflow-wrap: anywhere; }
ol { list-style: none; margin: 0; padding: 0; display: grid; gap: 12px;
     grid-template-columns: repeat(auto-fill, minmax(min(200px, 45%), 1fr)); }
li { background: var(--card); border: 1px solid var(--line); border-radius: 10px; overflow: hidden; min-width: 0; }
.picture { background: #fff; display: block; aspect-ratio: 1; width: 100%; padding: 10px; object-fit: contain; }
.about { padding: 8px 10px 10px; border-top: 1px solid var(--line); }
.score { float: right; margin-left: 8px; color: var(--soft); font-size: .8rem; font-variant-numeric: tabular-nums; }
.text { overflow: hidden; overflow-wrap: anywhere; display: -webkit-box; -webkit-line-clamp: 3;
        -webkit-box-orient: vertical; }
.path { color: var(--soft); font-size: .75rem; white-space: nowrap; overflow: hidden; text-overflow: ellipsis;
        margin-top: 2px; direction: rtl; text-align: left; }
details { font-size: .8rem; color: var(--soft); margin-top: 4px; overflow-wrap: anywhere; }
summary { cursor: pointer; }
.none { color: var(--soft); }
.unfit .none { font-size: .8rem; }
.unfit .picture { opacity: .45; }
.map { display: block; width: 100%; height: auto; margin-top: 12px; background: #fff; border: 1px solid var(--line);
       border-radius: 10px; font: bold 13px system-ui, sans-serif; }
.map circle { fill: #fff; stroke: #b00040; stroke-width: 3; }
.map text { fill: #b00040; text-anchor: middle; }
"""


def contact_sheet(
    queries: Sequence[Titled], *, title: str = "Search results", release_map: ReleaseMap | None = None
) -> str:
    """One self-contained HTML page: the hits of every query, best first, under the title given beside it; then the map
    of their release, with the hits marked.

    Everything shown was written by strangers and is escaped; the page loads nothing and runs no script.
    """
    sections = "".join(_section(heading, result) for heading, result in queries)
    if release_map:
        sections += _map_section(release_map, queries)
    releases = sorted({(result.release, result.model_id) for _, result in queries})
    origin = " · ".join(f"release {number}, model {html_text(model)}" for number, model in releases)
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; img-src data:; '
        "style-src 'unsafe-inline'\">\n"
        f"<title>{html_text(title)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n<main>\n"
        f'<h1>{html_text(title)}</h1>\n<div class="soft">{origin}</div>\n{sections}</main>\n</body>\n</html>\n'
    )


def contact_picture(queries: Sequence[Titled], *, columns: int = 8, rows: int = 8, max_bytes: int = 200_000) -> bytes:
    """The first `columns` hits of the first `rows` queries as one WebP of at most `max_bytes`, a query a line."""
    cell, gap, heading = 96, 8, 22
    shown = [(title, result.hits[:columns]) for title, result in queries[:rows]]
    width = columns * (cell + gap) + gap
    sheet = Image.new("RGB", (width, max(1, len(shown)) * (cell + gap + heading) + gap), "white")
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(14)
    for line, (title, hits) in enumerate(shown):
        top = gap + line * (cell + gap + heading)
        # Pillow's own font has the plain hyphen only.
        line_title = title.replace("−", "-") + ("" if hits else ": nothing found")
        draw.text((gap, top), fitting(draw, line_title, font, width - 2 * gap), fill="#222", font=font)
        for place, hit in enumerate(hits):
            with Image.open(io.BytesIO(hit.thumbnail)) as opened:
                paste(sheet, opened.convert("RGB"), (gap + place * (cell + gap), top + heading), cell)
    if found := webp(sheet, max_bytes):
        return found
    return contact_picture(queries[: max(1, len(shown) // 2)], columns=columns, rows=rows, max_bytes=max_bytes)


def pair_picture(pairs: Sequence[Pair], *, columns: int = 4, max_bytes: int = 200_000) -> bytes:
    """Pairs side by side in a grid as one WebP of at most `max_bytes`; fewer pairs where they don't fit."""
    cell, gap, line = 96, 8, 16
    width, height = 2 * cell + 3 * gap, cell + 2 * line + gap
    down = max(1, -(-len(pairs) // columns))
    sheet = Image.new("RGB", (columns * width + gap, down * height + gap), "white")
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(11)
    for place, pair in enumerate(pairs):
        left, top = gap + place % columns * width, gap + place // columns * height
        draw.text((left, top), fitting(draw, pair.title, font, 2 * cell + gap), fill="#777", font=font)
        for side, (picture, text) in enumerate(zip(pair.pictures, pair.texts, strict=True)):
            start = left + side * (cell + gap)
            paste(sheet, picture, (start, top + line), cell)
            below = top + line + cell
            draw.text((start, below), fitting(draw, text.replace("−", "-"), font, cell), fill="#222", font=font)
    if found := webp(sheet, max_bytes):
        return found
    return pair_picture(pairs[: len(pairs) // 2], columns=columns, max_bytes=max_bytes)


def data_uri(picture: bytes) -> str:
    """`picture` (WebP) as an address that Markdown and HTML can show without a file."""
    return f"data:image/webp;base64,{base64.b64encode(picture).decode()}"


def _section(heading: str, result: SearchResult) -> str:
    hits = "".join(_card(hit) for hit in result.hits)
    body = f"<ol>\n{hits}</ol>" if hits else '<p class="none">Nothing found.</p>'
    told = "".join(f'<p class="soft">{html_text(note)}</p>\n' for note in result.notes)
    return f"<section>\n<h2>{html_text(heading)}</h2>\n{told}{body}\n</section>\n"


def _map_section(release_map: ReleaseMap, queries: Sequence[Titled]) -> str:
    """The map as a picture, and over it a ring a hit, which names it under the mouse.

    The rings bear the place of the hit, or, where there are several queries, the number of the query.
    """
    points = release_map.place([hit.item_id for _, result in queries for hit in result.hits])
    marks = []
    for number, (heading, result) in enumerate(queries, 1):
        for place, hit in enumerate(result.hits, 1):
            (x, y), said = plotted(points[hit.item_id]), f"{heading} · {place} · {hit.texts[0] if hit.texts else ''}"
            marks.append(
                f'<g><title>{html_text(said)}</title><circle cx="{x:.0f}" cy="{y:.0f}" r="11"/>'
                f'<text x="{x:.0f}" y="{y + 4.5:.0f}">{place if len(queries) == 1 else number}</text></g>\n'
            )
    picture = data_uri(map_picture(release_map))
    about = html_text(release_map.title)
    numbered = " · ".join(f"{number} {html_text(heading)}" for number, (heading, _) in enumerate(queries, 1))
    legend = f'<div class="soft">{numbered}</div>\n' if len(queries) > 1 else ""
    return (
        f'<section>\n<h2>Map</h2>\n<div class="soft">{about}</div>\n{legend}'
        f'<svg class="map" viewBox="0 0 {WIDTH} {HEIGHT}" role="img"><title>{about}</title>'
        # Best hits last, above the others.
        f'<image href="{picture}" width="{WIDTH}" height="{HEIGHT}"/>\n{"".join(reversed(marks))}</svg>\n</section>\n'
    )


def _card(hit: Hit) -> str:
    first = hit.texts[0] if hit.texts else hit.item_id
    alternative = html_text(first)
    more = "".join(f"<div>{html_text(text)}</div>" for text in hit.texts[1:])
    texts = f"<details><summary>{len(hit.texts) - 1} more</summary>{more}</details>" if more else ""
    name = html_text(hit.path or hit.item_id)
    unfit, label = (' class="unfit"', '<div class="none">doesn’t fit</div>') if hit.fits is False else ("", "")
    return (
        f'<li{unfit}><img class="picture" loading="lazy" alt="{alternative}" src="{data_uri(hit.thumbnail)}">'
        f'<div class="about"><span class="score">{hit.shown_score:.3f}</span><div class="text">{alternative}</div>'
        f'<div class="path" title="{name}"><bdi>{name}</bdi></div>{label}{texts}</div></li>\n'
    )
