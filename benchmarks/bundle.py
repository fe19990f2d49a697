"""The development collections as training and validation items, with pictures as ingest leaves them."""

import json
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageOps

from models.relations import Relations

DATA = Path(__file__).parents[1].parent / "shared" / "data"
MAX_SIDE = {"grocery": 96, "emoji": 72}


@dataclass(frozen=True)
class Collection:
    """One split of a collection."""

    item_ids: list[str]
    texts: list[list[str]]
    relations: Relations
    images: list[Image.Image]


def read_collection(name: str, split: str) -> Collection:
    """Items of `grocery` or `emoji` (without skin tones), upright RGB on white, shrunk to `MAX_SIDE`."""
    lines = (DATA / name / "captions.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [row for row in map(json.loads, lines) if row["split"] == split and row.get("skin_tone", "none") == "none"]
    ids, texts = [row["image_id"] for row in rows], [row["texts"] for row in rows]
    relations = Relations.build(ids, [row["concept_id"] for row in rows], texts, [row["pixel_sha1"] for row in rows])
    return Collection(ids, texts, relations, [_picture(DATA / row["image"], MAX_SIDE[name]) for row in rows])


def _picture(path: Path, max_side: int) -> Image.Image:
    with Image.open(path) as file:
        picture = ImageOps.exif_transpose(file).convert("RGBA")
    white = Image.new("RGBA", picture.size, "white")
    picture = Image.alpha_composite(white, picture).convert("RGB")
    picture.thumbnail((max_side, max_side), Image.Resampling.LANCZOS)
    return picture
