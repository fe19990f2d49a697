"""The items of one split as the learning code wants them: columns in memory, relations between them."""

from collections.abc import Iterator
from dataclasses import dataclass

import pyarrow.compute as pc
from PIL import Image

from models.relations import Relations
from storage.corpus import Corpus, Snapshot
from storage.images import open_stored

COLUMNS = ["item_id", "texts", "group", "pixel_hash", "split"]


@dataclass(frozen=True)
class Items:
    """One split of a snapshot, in the corpus' order."""

    item_ids: list[str]
    texts: list[list[str]]
    relations: Relations
    slices: dict[str, list[str | None]]
    """Values of the columns that metrics are broken down by, as text, by column."""


def read_items(corpus: Corpus, snapshot: Snapshot, split: str, slices: tuple[str, ...] = ()) -> Items:
    """The items of `split`. Raises ValueError where a slice column is not kept."""
    unknown = sorted(set(slices) - set(corpus.columns(snapshot)))
    if unknown:
        raise ValueError(
            f"evaluation.slices names {unknown[0]!r}, which is no column of the corpus: add it to columns.keep"
        )
    rows = [
        row
        for row in corpus.table(snapshot, [*COLUMNS, *(name for name in slices if name not in COLUMNS)]).to_pylist()
        if row["split"] == split
    ]
    item_ids, texts = [row["item_id"] for row in rows], [row["texts"] for row in rows]
    return Items(
        item_ids=item_ids,
        texts=texts,
        relations=Relations.build(item_ids, [row["group"] for row in rows], texts, [row["pixel_hash"] for row in rows]),
        slices={name: [None if row[name] is None else str(row[name]) for row in rows] for name in slices},
    )


def split_images(corpus: Corpus, snapshot: Snapshot, split: str) -> Iterator[list[Image.Image]]:
    """The images of `split`, a batch at a time, in the order of `read_items`."""
    for part in snapshot.parts:
        for batch in corpus.read(snapshot, part, ["image", "split"]):
            images = batch.filter(pc.equal(batch["split"], split))["image"].to_pylist()
            if images:
                yield [open_stored(image["bytes"]) for image in images]
