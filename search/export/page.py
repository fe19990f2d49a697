"""A release as a page that needs no server: its items by the words of their texts, and what is like each of them."""

# N = items, K = neighbours of each

from importlib.resources import files
from pathlib import Path

import numpy as np

from pairloom.search.exact import nearest_by_product
from pairloom.search.export.table import Selection
from pairloom.search.results import shown_value
from pairloom.storage.escaping import html_text, json_text, plain
from pairloom.storage.table.index import Floats

MAX_ITEMS = 50_000
"""What a browser holds at ease."""
LIKE = 12
"""Items that are shown as like one."""
PICTURES_A_FOLDER = 1_000


def write_page(selection: Selection, folder: Path) -> None:
    """`index.html`, its script and style, `items.js` with what stands of the items, and their pictures by number.

    What strangers wrote is in `items.js` alone, as JSON without anything that isn't seen, and is shown as text.
    """
    release = selection.release
    keep = list(release.record.keep)
    rows: list[tuple[str, list[str], str | None, dict[str, str]]] = []
    for batch in selection.batches(["item_id", "texts", "path", "thumbnail", *keep]):
        for row in batch.to_pylist():
            place = folder / "pictures" / f"{len(rows) // PICTURES_A_FOLDER}"
            place.mkdir(parents=True, exist_ok=True)
            (place / f"{len(rows)}.webp").write_bytes(row["thumbnail"])
            own = {plain(name): plain(shown_value(row[name])) for name in keep if row[name] is not None}
            path = None if row["path"] is None else plain(row["path"])
            rows.append((plain(row["item_id"]), list(map(plain, row["texts"])), path, own))
    items = [[*row, like] for row, like in zip(rows, _like(selection), strict=True)]
    (folder / "items.js").write_text(f"const ITEMS = {json_text(items)};\n", encoding="utf-8")
    assets = files("pairloom.search.export") / "assets"
    for name in ("page.js", "page.css"):
        (folder / name).write_text((assets / name).read_text(encoding="utf-8"), encoding="utf-8")
    about = f"{release.folder.name} · release {release.record.number} · {selection.count:,} items"
    page = (assets / "index.html").read_text(encoding="utf-8").replace("{about}", html_text(about))
    (folder / "index.html").write_text(page, encoding="utf-8")


def _like(selection: Selection) -> list[list[int]]:
    """The numbers of the items whose images are most like that of each, best first."""
    release, found, done = selection.release, list[list[int]](), 0
    offsets_N = np.concatenate([batch["_rowoffset"].to_numpy() for batch in selection.batches(["_rowoffset"])])
    number = {offset: place for place, offset in enumerate(offsets_N.tolist())}
    for batch in selection.batches(["image_vector"]):
        image_BD: Floats = batch["image_vector"].flatten().to_numpy().reshape(len(batch), -1)
        near = nearest_by_product(release.dataset, image_BD, k=LIKE + 1, where=selection.condition)
        for own, offsets_K in zip(range(done, done + len(batch)), near.offsets_QK.tolist(), strict=True):
            found.append([number[each] for each in offsets_K if number[each] != own][:LIKE])
        done += len(batch)
    return found
