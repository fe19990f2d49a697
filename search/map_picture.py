"""The map of a release as a picture: a dot an item in its label's colour, thumbnails where there is room, a legend."""

import io
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from pairloom.search.map import OTHERS, ReleaseMap
from pairloom.search.picture import fitting, paste, webp

WIDTH, HEIGHT = 1200, 760
LEGEND = 190
"""Pixels at the right that the legend takes."""
CELL, FRAME, DOT, MARGIN = 42, 2, 3, 24
COLOURS = ("#0072b2", "#e69f00", "#009e73", "#cc3f95", "#56b4e9", "#8c5a2b", "#7f60c4", "#c9b400")
OTHER_COLOUR = "#b4b4b4"


def map_picture(release_map: ReleaseMap, *, max_bytes: int = 200_000) -> bytes:
    """The map as a WebP of `WIDTH` × `HEIGHT` pixels and at most `max_bytes`; fewer thumbnails where they don't fit."""
    most = len(release_map.thumbnails)
    while True:
        sheet, drawn = _drawn(release_map, most)
        if found := webp(sheet, max_bytes):
            return found
        assert drawn, f"a map without thumbnails takes more than {max_bytes} bytes"
        most = drawn // 2


def plotted(point: tuple[float, float]) -> tuple[float, float]:
    """Pixels from the left and from the top of a point of the map."""
    x, y = point
    return MARGIN + x * (WIDTH - LEGEND - 2 * MARGIN), HEIGHT - MARGIN - y * (HEIGHT - 2 * MARGIN)


def _drawn(release_map: ReleaseMap, most: int) -> tuple[Image.Image, int]:
    """The picture, and how many thumbnails, at most `most`, are on it."""
    colour = dict(zip(release_map.labels.shown, COLOURS, strict=False))
    colours = [colour.get(value, OTHER_COLOUR) for value in release_map.labels.values]
    centres = [plotted((x, y)) for x, y in release_map.points_S2.tolist()]
    sheet = _dots(centres, colours)
    draw = ImageDraw.Draw(sheet)
    free = np.ones((WIDTH, HEIGHT), bool)
    drawn, half = 0, CELL // 2 + FRAME
    for (x, y), fill, thumbnail in zip(centres, colours, release_map.thumbnails, strict=True):
        left, top = round(x) - half, round(y) - half
        box = (slice(max(left, 0), left + 2 * half), slice(max(top, 0), top + 2 * half))
        if drawn == most or not free[box].all():
            continue
        free[box], drawn = False, drawn + 1
        draw.rectangle((left, top, left + 2 * half - 1, top + 2 * half - 1), fill="white", outline=fill, width=FRAME)
        with Image.open(io.BytesIO(thumbnail)) as opened:
            paste(sheet, opened.convert("RGB"), (left + FRAME, top + FRAME), CELL)
    _legend(draw, release_map, colour)
    return sheet, drawn


def _dots(centres: Sequence[tuple[float, float]], colours: Sequence[str]) -> Image.Image:
    """An empty sheet with a dot an item."""
    # Drawn twice as large and shrunk: Pillow's circles have no smooth edges.
    large = Image.new("RGB", (2 * WIDTH, 2 * HEIGHT), "white")
    draw = ImageDraw.Draw(large)
    for (x, y), fill in zip(centres, colours, strict=True):
        draw.circle((2 * x, 2 * y), 2 * DOT, fill=fill)
    return large.reduce(2)


def _legend(draw: ImageDraw.ImageDraw, release_map: ReleaseMap, colour: dict[str, str]) -> None:
    left, font = WIDTH - LEGEND + 8, ImageFont.load_default(14)
    rest = {OTHERS: OTHER_COLOUR} if OTHERS in release_map.labels.values else {}
    draw.text((left, MARGIN), fitting(draw, release_map.labels.column, font, LEGEND - 16), fill="#777", font=font)
    for line, (value, fill) in enumerate((colour | rest).items(), 1):
        top = MARGIN + 24 * line
        draw.rectangle((left, top + 3, left + 11, top + 14), fill=fill)
        draw.text((left + 20, top), fitting(draw, value, font, LEGEND - 36), fill="#222", font=font)
