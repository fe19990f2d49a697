"""Two collections of real rows, and how those who keep them change them from one night to the next."""

import json
import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.bundle import DATA, MAX_SIDE

FIRST = 0.75
"""Share of the concepts that the release starts with; those of later nights are drawn from the rest."""

Row = dict[str, Any]


@dataclass(frozen=True)
class Collection:
    """The rows of a release, and real ones that it has not seen."""

    name: str
    rows: tuple[Row, ...]
    rest: tuple[Row, ...]
    max_side: int


def collection(name: str, seed: int) -> Collection:
    """`emoji`, of each concept the drawing of one of two artists, or `grocery`, photographs of classes."""
    chance = random.Random(seed)
    rows = [_row(each) for each in _lines(name) if each.get("skin_tone", "none") == "none"]
    concepts = sorted({row["concept"] for row in rows})
    known = set(chance.sample(concepts, int(FIRST * len(concepts))))
    chance.shuffle(rows)
    first: dict[str, Row] = {}
    for row in rows:
        # Of a class many photographs, of a symbol one drawing.
        key = row["concept"] if name == "emoji" else row["id"]
        if row["concept"] in known and (name == "emoji" or chance.random() < FIRST):
            first.setdefault(key, row)
    chosen = {row["id"] for row in first.values()}
    return Collection(
        name, tuple(first.values()), tuple(row for row in rows if row["id"] not in chosen), MAX_SIDE[name]
    )


def _lines(name: str) -> Iterable[Row]:
    with (DATA / name / "captions.jsonl").open(encoding="utf-8") as stream:
        yield from map(json.loads, stream)


def _row(line: Row) -> Row:
    others = [*line["texts"][1:], *filter(None, [", ".join(line["keywords"][:3])])]
    return {
        "id": line["image_id"],
        "image": line["image"],
        "texts": line["texts"][:1],
        "concept": line["concept_id"],
        "split": line["split"],
        "kind": line["group"],
        "others": others,
    }


def added(own: Collection, rows: Sequence[Row], chance: random.Random) -> list[Row]:
    """2 to 10 % more rows, of known concepts and of new ones."""
    return [*rows, *chance.sample(own.rest, int(chance.uniform(0.02, 0.1) * len(rows)))]


def corrected(_own: Collection, rows: Sequence[Row], chance: random.Random) -> list[Row]:
    """1 to 8 % of the captions are other true ones: another name, or what the picture is tagged with."""
    return [
        {**row, "texts": [chance.choice(row["others"])]} if each and row["others"] else row
        for row, each in zip(rows, _some(rows, 0.01, 0.08, chance), strict=True)
    ]


def redrawn(own: Collection, rows: Sequence[Row], chance: random.Random) -> list[Row]:
    """1 to 8 % of the pictures are other ones of the same thing: by the other artist, or another photograph."""
    pictures: dict[str, list[str]] = {}
    for row in own.rest:
        pictures.setdefault(row["concept"], []).append(row["image"])
    return [
        {**row, "image": chance.choice(pictures[row["concept"]])} if each and row["concept"] in pictures else row
        for row, each in zip(rows, _some(rows, 0.01, 0.08, chance), strict=True)
    ]


def shortened(_own: Collection, rows: Sequence[Row], chance: random.Random) -> list[Row]:
    """1 to 8 % of the rows are gone, and the order is another one."""
    left = [row for row, gone in zip(rows, _some(rows, 0.01, 0.08, chance), strict=True) if not gone]
    return chance.sample(left, len(left))


def _some(rows: Sequence[Row], least: float, most: float, chance: random.Random) -> list[bool]:
    chosen = set(chance.sample(range(len(rows)), int(chance.uniform(least, most) * len(rows))))
    return [place in chosen for place in range(len(rows))]


Edit = Callable[[Collection, Sequence[Row], random.Random], list[Row]]

HEALTHY: dict[str, tuple[Edit, ...]] = {
    "new rows": (added,),
    "captions corrected, new rows": (corrected, added),
    "pictures redrawn, new rows": (redrawn, added),
    "rows gone, new rows": (shortened, added),
    "all of these": (corrected, redrawn, shortened, added),
}
"""Nights as they should be, in turn with other seeds."""


def edited(own: Collection, edits: Sequence[Edit], chance: random.Random) -> list[Row]:
    """The rows of a night."""
    rows = list(own.rows)
    for edit in edits:
        rows = edit(own, rows, chance)
    return rows
