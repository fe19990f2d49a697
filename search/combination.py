"""What a query is made of: texts, pictures and items, each with its weight, and the direction of their sum."""

# P = parts, D = embedding

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from pairloom.storage.table.index import Floats


@dataclass(frozen=True)
class Stored:
    """The bytes of a picture that was made like those of the items already: it is taken as it is."""

    content: bytes


Picture = Path | Image.Image | Stored


@dataclass(frozen=True)
class Item:
    """An item of the release: its image as a part of a query. Like the one of `like`, it is left out of the hits."""

    item_id: str


@dataclass(frozen=True)
class Weighted:
    """A part that counts `weight` times."""

    part: "str | Picture | Item"
    weight: float


Part = str | Picture | Item | Weighted
"""A text, a picture or an item; a str is always a text, taken as it stands."""

# A colon with a number on both sides is no weight: 16:9, 12:30.
_WEIGHT = re.compile(r"(\d{1,4}(?:\.\d{1,6})?):\s*(?=[^\d\s])(.+)", re.DOTALL)


def parsed(text: str) -> str | Weighted:
    """`2:red shoe` as the text `red shoe` that counts twice; any other text as it is, `16:9 monitor` among them."""
    found = _WEIGHT.fullmatch(text)
    return Weighted(found[2], float(found[1])) if found else text


def weighed(part: Part) -> tuple[float, "str | Picture | Item"]:
    """The weight of a part, and what it weighs. ValueError for a weight that isn't above 0."""
    if not isinstance(part, Weighted):
        return 1.0, part
    if not 0 < part.weight < math.inf:
        raise ValueError(f"the weight of {named(part.part)!r} is {part.weight:g}, must be above 0: use minus instead")
    return part.weight, part.part


def named(part: Part) -> str:
    """A part in words, for people."""
    match part:
        case Weighted():
            return f"{part.weight:g} × {named(part.part)}"
        case Item():
            return f"like {part.item_id}"
        case Path():
            return part.name
        case Image.Image() | Stored():
            return "an image"
        case _:
            return part


def direction(weight_P: Sequence[float], vector_PD: Sequence[Floats]) -> Floats | None:
    """The weighted sum of some embeddings, L2-normalised, length D; None where they cancel out."""
    scaled_PD = np.asarray(weight_P, np.float32)[:, None] * np.asarray(vector_PD, np.float32)
    total_D: Floats = np.sum(scaled_PD, axis=0, dtype=np.float32)
    length = float(np.linalg.norm(total_D))
    return np.asarray(total_D / length, dtype=np.float32) if length > 1e-6 else None
