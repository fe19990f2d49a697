"""The map of a release as one web page in one file: enlarged and pointed at, it shows pictures; it loads nothing."""

import base64
import hashlib
import io
import math
from pathlib import Path

from PIL import Image

from pairloom.search.map import OTHERS, ReleaseMap
from pairloom.search.map_picture import COLOURS, OTHER_COLOUR
from pairloom.search.picture import paste
from pairloom.storage.escaping import html_text, json_text

CELL = 64
TEXT = 120
_STYLE = """
:root { color-scheme: light dark; --back: #fbfaf7; --card: #fff; --ink: #1f1e1b; --soft: #66635b;
  --line: #e6e2d9; }
@media (prefers-color-scheme: dark) {
  :root { --back: #171716; --card: #212120; --ink: #efede7; --soft: #aaa69b; --line: #343330; }
}
* { box-sizing: border-box; }
body { margin: 0; background: var(--back); color: var(--ink); font: 15px/1.45 system-ui, sans-serif; }
main { display: grid; grid-template: auto 1fr / minmax(0, 1fr) 180px; gap: 10px 20px; height: 100vh;
  padding: 16px 20px; }
header { grid-column: 1 / -1; overflow-wrap: anywhere; }
h1 { font-size: 1.1rem; margin: 0; font-weight: 600; }
p { margin: 2px 0 0; color: var(--soft); font-size: .85rem; }
.plot { position: relative; min-height: 0; border: 1px solid var(--line); border-radius: 16px;
  background: var(--card); overflow: hidden; }
canvas { display: block; width: 100%; height: 100%; touch-action: none; cursor: grab; color: var(--ink); }
.tip { position: absolute; transform: translate(-50%, calc(-100% - 14px)); background: var(--card); padding: 8px;
  border: 1px solid var(--line); border-radius: 12px; width: 140px; text-align: center; font-size: .8rem;
  pointer-events: none; overflow-wrap: anywhere; }
.tip canvas { width: 96px; height: 96px; margin: 0 auto 4px; background: #fff; border-radius: 8px; }
ul { list-style: none; margin: 0; padding: 0; font-size: .88rem; overflow: auto; overflow-wrap: anywhere; }
label { display: flex; gap: 8px; align-items: baseline; padding: 3px 0; cursor: pointer; }
svg { flex: none; }
@media (max-width: 700px) {
  main { grid-template: auto 1fr auto / minmax(0, 1fr); }
  ul { max-height: 22vh; columns: 2; }
}
"""
_SCRIPT = """
const data = JSON.parse(document.getElementById("data").textContent);
const sprite = new Image();
const tip = document.querySelector(".tip");
const close = tip.querySelector("canvas");
const cut = (at) => [(at % data.across) * data.cell, Math.floor(at / data.across) * data.cell];
let ready = false;
const drawn = plot(document.getElementById("map"), data, {
  picture(at) {
    const draw = (pen, x, y, size) => pen.drawImage(sprite, ...cut(at), data.cell, data.cell, x, y, size, size);
    return ready && { draw };
  },
  onPoint(at, x, y) {
    tip.hidden = at < 0;
    if (at < 0) return;
    tip.style.left = `${x}px`;
    tip.style.top = `${y}px`;
    tip.lastElementChild.textContent = data.text[at];
    close.getContext("2d").drawImage(sprite, ...cut(at), data.cell, data.cell, 0, 0, 96, 96);
  },
  onOpen() {},
  onChoose() {},
});
sprite.onload = () => ((ready = true), drawn.whole());
sprite.src = data.sprite;
const hidden = new Set();
document.querySelectorAll("input").forEach((input) => input.addEventListener("change", () => {
  if (input.checked) hidden.delete(Number(input.value));
  else hidden.add(Number(input.value));
  drawn.hide(hidden);
}));
"""


def map_page(release_map: ReleaseMap) -> str:
    """The page. Everything shown was written by strangers and is escaped; it runs its own script alone."""
    labels = [*release_map.labels.shown, OTHERS]
    colours = [*COLOURS[: len(release_map.labels.shown)], OTHER_COLOUR]
    place = {name: at for at, name in enumerate(release_map.labels.shown)}
    label = [place.get(value, len(labels) - 1) for value in release_map.labels.values]
    texts = release_map.release.dataset.take(release_map.places, columns=["texts"])["texts"].to_pylist()
    across = max(1, math.isqrt(max(0, len(label) - 1)) + 1)
    data = {
        "x": [round(x, 4) for x in release_map.points_S2[:, 0].tolist()],
        "y": [round(y, 4) for y in release_map.points_S2[:, 1].tolist()],
        "label": label,
        "colours": colours,
        "text": [(own[0] if own else "")[:TEXT] for own in texts],
        "across": across,
        "cell": CELL,
        "sprite": "data:image/webp;base64," + base64.b64encode(_sprite(release_map.thumbnails, across)).decode(),
    }
    script = _plot() + _SCRIPT
    allowed = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    legend = "".join(
        f'<li><label><input type="checkbox" checked value="{at}"><svg viewBox="0 0 12 12" width="12" height="12">'
        f'<circle cx="6" cy="6" r="6" fill="{colour}"/></svg>{html_text(name)}</label></li>'
        for at, (name, colour) in enumerate(zip(labels, colours, strict=True))
        if at in label
    )
    title = html_text(release_map.title)
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; img-src data:; '
        f"style-src 'unsafe-inline'; script-src 'sha256-{allowed}'\">\n"
        f"<title>{title}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n<main>\n<header><h1>{title}</h1>"
        "<p>Scroll to enlarge, drag to move, point to see.</p></header>\n"
        '<div class="plot"><canvas id="map" tabindex="0" role="application" '
        f'aria-label="{title}. Arrow keys move, plus and minus enlarge."></canvas>'
        '<div class="tip" hidden><canvas width="96" height="96"></canvas><span></span></div></div>\n'
        f"<ul>{legend}</ul>\n</main>\n"
        f'<script type="application/json" id="data">{_harmless(json_text(data))}</script>\n'
        f'<script type="module">{script}</script>\n</body>\n</html>\n'
    )


def _plot() -> str:
    source = (Path(__file__).parent / "web" / "static" / "plot.js").read_text(encoding="utf-8")
    return source.replace("export function plot", "function plot")


def _sprite(thumbnails: list[bytes], across: int) -> bytes:
    """All pictures in one, `across` in a line."""
    sheet = Image.new("RGB", (across * CELL, max(1, -(-len(thumbnails) // across)) * CELL), "white")
    for at, content in enumerate(thumbnails):
        with Image.open(io.BytesIO(content)) as opened:
            paste(sheet, opened.convert("RGB"), (at % across * CELL, at // across * CELL), CELL)
    out = io.BytesIO()
    sheet.save(out, "WEBP", quality=70, method=2)
    return out.getvalue()


def _harmless(text: str) -> str:
    """JSON that ends no script, whatever its strings hold."""
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
