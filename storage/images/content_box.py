"""The content box: a picture on a plain background, cut to what isn't background and put into the middle of a square.

Of the pixels alone, once they are upright and RGB on white: ingest and queries ask it alike. The transparency that a
file may have had is no better guide: it takes white on nothing, which nobody sees, for content, and would have two
files of the very same pixels cut in two ways, an icon otherwise than its screenshot.

Edges are found between pixels, on a picture that is blurred a little: copies of another size, or saved as JPEG, are cut
alike to a few thousandths. What goes is background all along a side. A photograph has no plain border and is left as it
is; of one that has (a studio's, a stage's, a scan's) the object remains.
"""

# H, W = height, width, N = some pixels, L = pixels along a side

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageChops, ImageFilter

Pixels = npt.NDArray[np.uint8]

TOLERANCE = 14
"""By how much of 255 a colour may differ from the background's and be background: more than JPEG does to a flat one,
less than the lightest greys that are drawn on white (#eee)."""
LEAST_PLAIN = 0.6
"""Share of the border that must be background, and of the corners all but one: what is drawn may touch it."""
MARGIN = 1 / 16
"""Background around the content on each side, of the content's longer side."""
LEAST_SIDE = 1 / 8
"""Least side of the square, of the picture's longer side: a speck on a blank page is no picture of a speck."""
_LOOKED_AT = 256
"""Side, in pixels, down to which larger pictures are averaged before they are looked at."""
_BLURRED = 1 / 192
"""Radius of the blur, of the longer side: JPEG's ripples go, lines stay."""


@dataclass(frozen=True)
class ContentSquare:
    """The square around the content of a picture, in pixels between which it may begin and end, and its background.

    It may reach beyond the picture.
    """

    left: float
    top: float
    side: float
    background: tuple[int, int, int]


def content_square(image: Image.Image) -> ContentSquare | None:
    """That of an RGB picture; None where its border isn't of one colour, or nothing is on it."""
    step = max(1, max(image.size) // _LOOKED_AT)
    small = image.reduce(step) if step > 1 else image
    if (background := _background(small)) is None:
        return None
    blurred = small.filter(ImageFilter.BoxBlur(_BLURRED * max(small.size)))
    red, green, blue = ImageChops.difference(blurred, Image.new("RGB", small.size, background)).split()
    away_HW = np.asarray(ImageChops.lighter(ImageChops.lighter(red, green), blue))
    across, down = (_extent(away_HW.max(axis=axis)) for axis in (0, 1))
    if across is None or down is None:
        return None
    # The last pixel of a reduced picture may stand for fewer of the whole one than the others.
    (left, right), (top, bottom) = (
        (low * step, min(high * step, side)) for (low, high), side in zip((across, down), image.size, strict=True)
    )
    longest = max(right - left, bottom - top)
    side = max((1 + 2 * MARGIN) * longest, LEAST_SIDE * max(image.size))
    return ContentSquare((left + right - side) / 2, (top + bottom - side) / 2, side, background)


def framed(image: Image.Image, square: ContentSquare, max_side: int) -> Image.Image:
    """What is in the square, of at most `max_side`, antialiased; background where the picture has nothing."""
    # Before there is a square: that of a long strip might fill any memory.
    step = max(1, round(square.side / (2 * max_side)))
    small = image.reduce(step) if step > 1 else image
    left, top, side = (each / step for each in (square.left, square.top, square.side))
    room = max(0, *(-int(np.floor(each)) for each in (left, top)))
    reach = [int(np.ceil(each + side)) for each in (left, top)]
    canvas = Image.new("RGB", (room + max(reach[0], 1), room + max(reach[1], 1)), square.background)
    canvas.paste(small, (room, room))
    length = max(1, min(round(square.side), max_side))
    box = (room + left, room + top, room + left + side, room + top + side)
    return canvas.resize((length, length), Image.Resampling.BICUBIC, box=box)


def _extent(away_L: Pixels) -> tuple[float, float] | None:
    """Where content begins and ends along a side of which the farthest colours are given; None where there is none."""
    if away_L.max() <= TOLERANCE:
        return None
    return _edge(away_L), len(away_L) - _edge(away_L[::-1])


def _edge(away_L: Pixels) -> float:
    """Where it first rises above the tolerance, between the middles of two pixels; 0 where it is from the first one."""
    first = int(np.argmax(away_L > TOLERANCE))
    if first == 0:
        return 0.0
    before, after = float(away_L[first - 1]), float(away_L[first])
    return first + 0.5 - (after - TOLERANCE) / (after - before)


def _background(image: Image.Image) -> tuple[int, int, int] | None:
    """The colour that most of the border has; None where that is not enough of it."""
    (width, height), (deep, corner) = image.size, (max(1, min(image.size) // part) for part in (64, 16))
    strips = ((0, 0, width, corner), (0, height - corner, width, height))
    sides = ((0, 0, deep, height), (width - deep, 0, width, height))
    top, bottom, left, right = (np.asarray(image.crop(strip)) for strip in (*strips, *sides))
    border_N3 = np.concatenate([each.reshape(-1, 3) for each in (top[:deep], bottom[-deep:], left, right)])
    background_3 = np.median(border_N3, axis=0).astype(np.uint8)

    def plain(pixels: Pixels) -> float:
        away_N3 = np.abs(pixels.reshape(-1, 3).astype(np.int16) - background_3)
        return float((away_N3 <= TOLERANCE).all(axis=1).mean())

    corners = sum(plain(each) > 0.9 for strip in (top, bottom) for each in (strip[:, :corner], strip[:, -corner:]))
    if corners < 3 or plain(border_N3) < LEAST_PLAIN:
        return None
    red, green, blue = background_3.tolist()
    return red, green, blue
