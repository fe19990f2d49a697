"""Collections drawn by the project itself, for objectives that real pairs can't show: pictures and captions.jsonl.

    python -m benchmarks.rendered digits FOLDER
    python -m benchmarks.rendered rock-paper-scissors FOLDER
    python -m benchmarks.rendered square-triangle-line FOLDER
    python -m benchmarks.rendered scattered FOLDER

*digits*: scikit-learn's 1,797 handwritten digits of 8 × 8 pixels, enlarged to 32 × 32. `text` names the digit, `group`
is it; of every ten the last two are validation items. Objectives without labels read neither. `pairs.csv` says of four
others of the same digit and of four of other digits, drawn at random, that they are positives and negatives of a
training item.
*scattered*: 2,000 images of one of six shapes, of any place, size and colour. `text` and `group` tell the shape alone;
`x`, `y` (of the centre) and `radius` are fractions of the side, `hue` is 0 to 1; `place` is one of nine, `colour` one
of six.
*rock-paper-scissors*: 2,400 drawings of stones, sheets and scissors, of any size, place, angle and colour. `text`
is a running number; `kind` is for evaluation only. pairs.csv labels 20 ordered pairs for each training item: 1 where
the anchor wins, -1 where it loses, 0 for a draw. Of every four items the last is a validation item, in no pair.
"""

import argparse
import colorsys
import json
import math
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
OUTLINES = {
    "triangle": [1.0] * 3,
    "diamond": [1.0] * 4,
    "disc": [1.0] * 40,
    "star": [1.0, 0.4] * 5,
    "cross": [1.0, 0.3] * 4,
    "roof": [1.0, 0.9, 0.2, 0.9],
}
"""How far the corners of each shape are from its centre."""
PLACES = (("left", "middle", "right"), ("top", "centre", "bottom"))
HUES = ("red", "yellow", "green", "cyan", "blue", "magenta")


def write_collection(folder: Path, images: Sequence[Image.Image], rows: Sequence[dict[str, Any]]) -> None:
    """Writes PNG files and captions.jsonl, a line an image; each row has its `id`."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = []
    for image, row in zip(images, rows, strict=True):
        image.save(folder / f"{row['id']}.png")
        lines.append(json.dumps(row | {"image": f"{row['id']}.png"}) + "\n")
    (folder / "captions.jsonl").write_text("".join(lines), encoding="utf-8")


def digits(folder: Path) -> None:
    """Writes the handwritten digits."""
    from sklearn.datasets import load_digits  # a second to import

    found = load_digits()
    images, rows = [], []
    for number, (ink_HW, digit) in enumerate(zip(found.images, found.target.tolist(), strict=True)):
        grey_HW = (255 - ink_HW * (255 / 16)).astype(np.uint8)
        images.append(Image.fromarray(grey_HW).convert("RGB").resize((32, 32), Image.Resampling.BICUBIC))
        split = "val" if number % 10 >= 8 else "train"
        rows.append({"id": f"digit-{number:04d}", "text": NAMES[digit], "group": NAMES[digit], "split": split})
    write_collection(folder, images, rows)
    _write_pairs(folder / "pairs.csv", [row for row in rows if row["split"] == "train"])


def _write_pairs(file: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Four positives and four negatives of each row, by its group."""
    random = np.random.default_rng(0)
    groups = np.array([row["group"] for row in rows])
    lines = ["anchor,other,relation"]
    for number, row in enumerate(rows):
        same = groups == row["group"]
        for relation, candidates in (("positive", same & (np.arange(len(rows)) != number)), ("negative", ~same)):
            drawn = random.choice(np.flatnonzero(candidates), 4, replace=False)
            lines += [f"{row['id']},{rows[other]['id']},{relation}" for other in drawn]
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")


def scattered(folder: Path) -> None:
    """Writes shapes whose text leaves out where they are, how large and of which colour."""
    random = np.random.default_rng(0)
    images, rows = [], []
    for number in range(2000):
        shape = tuple(OUTLINES)[number % len(OUTLINES)]
        x, y = random.uniform(0.25, 0.75, 2)
        radius, hue = random.uniform(0.14, 0.24), random.random()
        # Twice as large, then shrunk: PIL draws polygons with hard edges.
        image = Image.new("RGB", (64, 64), "white")
        corners = [(64 * (x + radius * dx), 64 * (y + radius * dy)) for dx, dy in _outline(OUTLINES[shape])]
        red, green, blue = (round(255 * part) for part in colorsys.hsv_to_rgb(hue, 0.9, 0.85))
        ImageDraw.Draw(image).polygon(corners, fill=(red, green, blue))
        images.append(image.resize((32, 32), Image.Resampling.LANCZOS))
        places = [min(int((part - 0.25) * 6), 2) for part in (x, y)]
        rows.append(
            {"id": f"scattered-{number:04d}", "text": f"a {shape}", "group": shape}
            | {"split": "val" if number // 10 % 5 == 4 else "train"}
            | {"x": x, "y": y, "radius": radius, "hue": hue}
            | {"place": f"{PLACES[1][places[1]]} {PLACES[0][places[0]]}", "colour": HUES[round(hue * 6) % 6]}
        )
    write_collection(folder, images, rows)


def _outline(radii: Sequence[float]) -> list[tuple[float, float]]:
    """Corners at even angles, the first above the centre."""
    angles = [2 * math.pi * corner / len(radii) for corner in range(len(radii))]
    return [(radius * math.sin(angle), -radius * math.cos(angle)) for radius, angle in zip(radii, angles, strict=True)]


GAMES = {
    "rock-paper-scissors": ("rock", "paper", "scissors"),
    "square-triangle-line": ("square", "triangle", "line"),
}
"""Kinds, of which each loses to the next one, and the last to the first."""
SIDES = {"square": 4, "triangle": 3, "line": 2}
Point = tuple[float, float]


def game(kinds: Sequence[str], folder: Path, count: int = 2_400, pairs_per_item: int = 20) -> None:
    """Writes drawings of three kinds, and the labels of pairs of training items."""
    random = np.random.default_rng(0)
    kind_N = random.integers(3, size=count)
    images = [drawing(kinds[kind], random) for kind in kind_N]
    rows = [
        {
            "id": f"drawing-{n:04d}",
            "text": f"drawing {n}",
            "kind": kinds[kind],
            "split": "val" if n % 4 == 3 else "train",
        }
        for n, kind in enumerate(kind_N)
    ]
    write_collection(folder, images, rows)
    training = np.array([n for n in range(count) if n % 4 != 3])
    lines = ["anchor,other,relation,target"]
    for anchor in training:
        for other in random.choice(training[training != anchor], pairs_per_item, replace=False):
            label = outcome(int(kind_N[anchor]), int(kind_N[other]))
            lines.append(f"{rows[anchor]['id']},{rows[other]['id']},ordered,{label}")
    (folder / "pairs.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")


def outcome(anchor: int, other: int) -> int:
    """1 where the anchor's kind beats the other's, -1 where it loses, 0 where they are the same."""
    return (0, 1, -1)[(anchor - other) % 3]


def drawing(kind: str, random: np.random.Generator, side: int = 32) -> Image.Image:
    """A stone, a sheet, a pair of scissors, a square, a triangle or a line."""
    scale = 4  # drawn larger, for smooth edges
    size = side * scale
    radius = size * random.uniform(0.22, 0.42)
    middle = random.uniform(radius + size * 0.04, size * 0.96 - radius, size=2)
    angle = random.uniform(0, 2 * math.pi)
    ink = tuple(int(each) for each in random.integers(0, 150, size=3))
    ground = tuple(int(each) for each in random.integers(215, 256, size=3))
    fill = tuple(int(each) for each in random.integers(150, 256, size=3)) if random.random() < 0.5 else None
    width = round(size * random.uniform(0.02, 0.05))
    image = Image.new("RGB", (size, size), ground)
    pen = ImageDraw.Draw(image)

    def at(x: float, y: float) -> Point:
        """A point of the figure, whose own circle has radius 1, on the canvas."""
        cos, sin = radius * math.cos(angle), radius * math.sin(angle)
        return middle[0] + x * cos - y * sin, middle[1] + x * sin + y * cos

    if kind == "rock":
        turns = (np.arange(11) + random.uniform(-0.3, 0.3, size=11)) * (2 * math.pi / 11)
        reaches = random.uniform(0.72, 1.0, size=11)
        corners = [
            at(reach * math.cos(turn), reach * math.sin(turn)) for turn, reach in zip(turns, reaches, strict=True)
        ]
        pen.polygon(corners, fill=fill)
        pen.line([*corners, *corners[:2]], fill=ink, width=width, joint="curve")
    elif kind == "paper":
        high = random.uniform(0.75, 0.85)
        wide = math.sqrt(1 - high**2)
        corners = [at(-wide, -high), at(wide, -high), at(wide, high), at(-wide, high)]
        pen.polygon(corners, fill=fill)
        pen.line([*corners, *corners[:2]], fill=ink, width=width, joint="curve")
        for y in np.linspace(-0.5, 0.5, 4):
            pen.line([at(-0.6 * wide, y * high), at(0.6 * wide, y * high)], fill=ink, width=max(width // 2, 1))
    elif kind in SIDES:
        corners = [at(x, y) for x, y in _outline([1.0] * SIDES[kind])]
        pen.polygon(corners, fill=fill)
        pen.line([*corners, *corners[:2]], fill=ink, width=width, joint="curve")
    else:
        opening = random.uniform(0.25, 0.5)
        for turn in (-opening, opening):
            cos, sin = math.cos(turn), math.sin(turn)
            pen.line([at(-0.5 * cos, -0.5 * sin), at(cos, sin)], fill=ink, width=width)
            x, y = at(-0.72 * cos, -0.72 * sin)
            reach = 0.24 * radius
            pen.ellipse((x - reach, y - reach, x + reach, y + reach), fill=fill, outline=ink, width=width)
    return image.resize((side, side), Image.Resampling.BOX)


COLLECTIONS: dict[str, Callable[[Path], None]] = {
    "digits": digits,
    "scattered": scattered,
    **{name: partial(game, kinds) for name, kinds in GAMES.items()},
}


def main() -> None:
    """Draws one collection."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("collection", choices=sorted(COLLECTIONS))
    parser.add_argument("folder", type=Path)
    options = parser.parse_args()
    COLLECTIONS[options.collection](options.folder)


if __name__ == "__main__":
    main()
