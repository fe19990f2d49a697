"""The items of one split as the learning code wants them: columns in memory, relations between them."""

from dataclasses import dataclass

from models.relations import Relations
from storage.corpus import Corpus, Snapshot

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
