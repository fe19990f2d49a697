"""The development collections as training and validation items, with pictures as ingest leaves them."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps
from scipy import sparse  # type: ignore[import-untyped]  # SciPy publishes no type information

from pairloom.models.batches.relations import Relations
from pairloom.models.ragged import Ragged
from pairloom.storage.images.config import IngestConfig
from pairloom.storage.images.decoding import open_query_image

DATA = Path(__file__).parents[1].parent / "shared" / "data"
MAX_SIDE = {"grocery": 96, "emoji": 72, "photos": 96}


@dataclass(frozen=True)
class Collection:
    """One split of a collection."""

    item_ids: list[str]
    texts: list[list[str]]
    relations: Relations
    images: list[Image.Image]
    keywords: list[list[str]] = field(default_factory=list)


def read_collection(name: str, split: str, max_side: int | None = None, *, cut: bool = False) -> Collection:
    """Items of `grocery` or `emoji` (without skin tones), upright RGB on white, shrunk to `max_side`, or `MAX_SIDE`;
    with `cut` to their content box, as ingest does.
    """
    rows = [row for row in read_rows(name) if row["split"] == split]
    return _collected(name, rows, max_side, cut=cut)


def _collected(name: str, rows: Sequence[dict[str, Any]], max_side: int | None, *, cut: bool) -> Collection:
    images = cut_pictures(name, rows, max_side) if cut else read_pictures(name, rows, max_side)
    ids, texts = [row["image_id"] for row in rows], [row["texts"] for row in rows]
    relations = Relations.build(ids, [row["concept_id"] for row in rows], texts, [row["pixel_sha1"] for row in rows])
    return Collection(ids, texts, relations, images, [row.get("keywords", []) for row in rows])


def read_parts(
    name: str, asked: int, parts: int, max_side: int | None = None, *, cut: bool = False
) -> tuple[Collection, Collection]:
    """The training split without one of `parts` parts, and that part: whole concepts, to choose settings by."""
    rows = [row for row in read_rows(name) if row["split"] == "train"]
    concepts = sorted({row.get("base_id", row["concept_id"]) for row in rows})
    part = dict(zip(concepts, np.random.default_rng(0).permutation(len(concepts)) % parts, strict=True))
    learn, check = (
        [row for row in rows if (part[row.get("base_id", row["concept_id"])] == asked) == is_asked]
        for is_asked in (False, True)
    )
    return _collected(name, learn, max_side, cut=cut), _collected(name, check, max_side, cut=cut)


def read_artists(learned: str, asked: str, max_side: int | None = None, *, cut: bool = False) -> list[Collection]:
    """All emoji by one artist, and those of the other, of the concepts that both have drawn."""
    rows = read_rows("emoji")
    by = {artist: [row for row in rows if row["source"] == artist] for artist in (learned, asked)}
    both = set.intersection(*({row["concept_id"] for row in own} for own in by.values()))
    return [
        _collected("emoji", [row for row in own if row["concept_id"] in both], max_side, cut=cut) for own in by.values()
    ]


def read_rows(name: str, *, skin_tones: bool = False) -> list[dict[str, Any]]:
    """Lines of a collection's `captions.jsonl`, without skin tones unless asked for; the columns are those of the
    bundle's README.
    """
    lines = (DATA / name / "captions.jsonl").read_text(encoding="utf-8").splitlines()
    return [row for row in map(json.loads, lines) if skin_tones or row.get("skin_tone", "none") == "none"]


def read_pictures(name: str, rows: Sequence[dict[str, Any]], max_side: int | None = None) -> list[Image.Image]:
    """Upright RGB on white, shrunk to `max_side`, or `MAX_SIDE`."""
    return [_picture(DATA / row["image"], max_side or MAX_SIDE[name]) for row in rows]


def cut_pictures(name: str, rows: Sequence[dict[str, Any]], max_side: int | None = None) -> list[Image.Image]:
    """The same, cut to their content box, as ingest does."""
    config = IngestConfig(max_side=max_side or MAX_SIDE[name])
    return [open_query_image(DATA / row["image"], config) for row in rows]


def unrelated(item_ids: Sequence[str], texts: Sequence[Sequence[str]]) -> Relations:
    """Relations in which an item is the positive of its own texts alone, even where others carry the same text.

    This is what CLIP's plain loss assumes. Equal texts are listed once for each item that carries them.
    """
    owner = np.repeat(np.arange(len(texts)), [len(own) for own in texts])
    keys = (np.ones(len(owner), dtype=np.int32), (np.arange(len(owner)), owner))
    return Relations(
        item_ids=tuple(item_ids),
        texts=tuple(text for own in texts for text in own),
        item_texts=Ragged.cut(np.arange(len(owner)), np.array([len(own) for own in texts])),
        group_N=np.arange(len(texts)),
        pixels_N=np.arange(len(texts)),
        item_keys_NF=sparse.identity(len(texts), dtype=np.int32, format="csr"),
        text_keys_TF=sparse.csr_matrix(keys, shape=(len(owner), len(texts))),
    )


def _picture(path: Path, max_side: int) -> Image.Image:
    with Image.open(path) as file:
        picture = ImageOps.exif_transpose(file).convert("RGBA")
    white = Image.new("RGBA", picture.size, "white")
    picture = Image.alpha_composite(white, picture).convert("RGB")
    picture.thumbnail((max_side, max_side), Image.Resampling.LANCZOS)
    return picture
