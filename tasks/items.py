"""The items of one split as the learning code wants them: columns in memory, relations between them."""

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import pyarrow as pa
import pyarrow.compute as pc
from PIL import Image

from pairloom.models.arrays import Mask
from pairloom.models.batches.relations import Relations, normalize_text
from pairloom.models.evaluation.metrics import Slice, column_slices, novelty_slices
from pairloom.models.pictures import Picture, mapped, opened
from pairloom.models.towers.config import SecondImageTowerConfig, as_texts
from pairloom.storage.corpus import Corpus, Part, Snapshot
from pairloom.storage.images.decoding import open_stored

COLUMNS = ["item_id", "texts", "group", "pixel_hash", "split"]
IMAGES_AT_ONCE = 256


@dataclass(frozen=True)
class Items:
    """Items of a snapshot, in the corpus' order."""

    item_ids: list[str]
    texts: list[list[str]]
    groups: list[str | None]
    relations: Relations
    slices: dict[str, list[str | None]]
    """Values of the columns that metrics are broken down by, as text, by column."""
    keywords: list[list[str]]
    """Further words for each picture; empty where no column has them."""


def read_items(
    corpus: Corpus,
    snapshot: Snapshot,
    split: str | None,
    slices: tuple[str, ...] = (),
    keywords: str | None = None,
) -> Items:
    """The items of `split`, of all of them for None, with what the columns `slices` and `keywords` say.

    Raises ValueError where such a column is not kept.
    """
    more = dict.fromkeys([*slices, keywords] if keywords else slices)
    unknown = sorted(set(more) - set(corpus.columns(snapshot)))
    if unknown:
        key = "evaluation.slices" if unknown[0] in slices else "model.keywords"
        raise ValueError(f"{key} names {unknown[0]!r}, which is no column of the corpus: add it to columns.keep")
    rows = corpus.table(snapshot, [*COLUMNS, *(name for name in more if name not in COLUMNS)])
    if split is not None:
        rows = rows.filter(pc.equal(rows["split"], split))
    # Column by column: a row as a mapping takes more than all that it holds.
    item_ids, groups, texts = (rows[name].to_pylist() for name in ("item_id", "group", "texts"))
    return Items(
        item_ids=item_ids,
        texts=texts,
        groups=groups,
        relations=Relations.build(item_ids, groups, texts, rows["pixel_hash"].to_pylist()),
        slices={name: [None if value is None else str(value) for value in rows[name].to_pylist()] for name in slices},
        keywords=[as_texts(value) for value in rows[keywords].to_pylist()] if keywords else [],
    )


def split_slices(corpus: Corpus, snapshot: Snapshot, items: Items) -> dict[str, Slice]:
    """The slices of evaluation items: by the values of their columns, and by what the training split has shown."""
    rows = corpus.table(snapshot, ["texts", "group", "split"])
    shown = rows.filter(pc.equal(rows["split"], "train"))
    texts = {normalize_text(text) for own in shown["texts"].to_pylist() for text in own}
    novelty = novelty_slices(items.relations, items.groups, texts, set(shown["group"].to_pylist()))
    return column_slices(items.relations, items.slices) | novelty


def second_tower_items(
    corpus: Corpus, snapshot: Snapshot, item_ids: Sequence[str], tower: SecondImageTowerConfig | None
) -> Mask | None:
    """Which of some items (N,) the second image tower encodes; None where the model has one tower."""
    if tower is None:
        return None
    require_tower_column(corpus, snapshot, tower)
    rows = corpus.table(snapshot, ["item_id", tower.column])
    value = dict(zip(rows["item_id"].to_pylist(), rows[tower.column].to_pylist(), strict=True))
    return tower.takes([value[item] for item in item_ids])


def require_tower_column(corpus: Corpus, snapshot: Snapshot, tower: SecondImageTowerConfig) -> None:
    """Raises ValueError where the corpus doesn't say which image tower an item takes."""
    if tower.column not in corpus.columns(snapshot):
        raise ValueError(
            f"the model's second image tower is for some values of {tower.column!r}, which is no column of the corpus: "
            f"add it to columns.keep (--set columns.keep.{tower.column}=string)"
        )


def split_images(corpus: Corpus, snapshot: Snapshot, split: str | None) -> Iterator[list[Picture]]:
    """The images of `split`, of all splits for None, a batch at a time, in the order of `read_items`; others are not
    read."""
    among = None if split is None else ("split", pa.array([split]))
    for part in snapshot.parts:
        for batch in corpus.read(snapshot, part, ["image"], among=among):
            yield _pictures(batch)


def part_pictures(
    corpus: Corpus, snapshot: Snapshot, part: Part, item_ids: pa.StringArray, *, side: int | None = None
) -> Iterator[tuple[list[Picture], list[int]]]:
    """The images of those of `item_ids` that one part has, in its order, a batch at a time; and their places there.

    `side` is how large they need be at least, if not whole.
    """
    for batch in corpus.read(snapshot, part, ["item_id", "image"], among=("item_id", item_ids)):
        yield _pictures(batch, side), pc.index_in(batch["item_id"], item_ids).to_pylist()


def counted(batches: Iterable[list[Picture]], looked: Callable[[int], None]) -> Iterator[list[Picture]]:
    """The batches; when the next one is asked for, `looked` hears how many pictures there were."""
    pictures = 0
    for batch in batches:
        yield batch
        pictures += len(batch)
        looked(pictures)


def images_of(corpus: Corpus, snapshot: Snapshot, item_ids: pa.StringArray) -> Iterator[tuple[int, Image.Image]]:
    """The image of each of `item_ids` with its place there, in the corpus' order; few others are read."""
    for part in snapshot.parts:
        for pictures, places in part_pictures(corpus, snapshot, part, item_ids):
            yield from zip(places, mapped(opened, pictures), strict=True)


def image_batches(corpus: Corpus, snapshot: Snapshot, item_ids: Sequence[str]) -> Iterator[list[Picture]]:
    """The images of some items, a few at a time, in the corpus' order."""
    wanted = pa.array(item_ids, pa.string())
    found = (own for part in snapshot.parts for own, _ in part_pictures(corpus, snapshot, part, wanted))
    pictures = itertools.chain.from_iterable(found)
    while batch := list(itertools.islice(pictures, IMAGES_AT_ONCE)):
        yield batch


def _pictures(batch: pa.RecordBatch, side: int | None = None) -> list[Picture]:
    return [partial(open_stored, image["bytes"], side=side) for image in batch["image"].to_pylist()]
