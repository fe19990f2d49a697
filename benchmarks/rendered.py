"""Collections drawn by the project itself, for objectives that real pairs can't show: pictures and captions.jsonl.

    python -m benchmarks.rendered digits FOLDER

*digits*: scikit-learn's 1,797 handwritten digits of 8 × 8 pixels, enlarged to 32 × 32. `text` names the digit, `group`
is it; of every ten the last two are validation items. Objectives without labels read neither. `pairs.csv` says of four
others of the same digit and of four of other digits, drawn at random, that they are positives and negatives of a
training item.
"""

import argparse
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


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


COLLECTIONS: dict[str, Callable[[Path], None]] = {"digits": digits}


def main() -> None:
    """Draws one collection."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("collection", choices=sorted(COLLECTIONS))
    parser.add_argument("folder", type=Path)
    options = parser.parse_args()
    COLLECTIONS[options.collection](options.folder)


if __name__ == "__main__":
    main()
