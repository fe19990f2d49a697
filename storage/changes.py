"""What differs between two snapshots of a corpus, by what is written in one of them and not in the other."""

# N = items

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pairloom.storage.corpus import Corpus, Part, Snapshot
from pairloom.storage.digest import digest
from pairloom.storage.schema import item_schema

_METADATA = ("group", "split", "width", "height", "source")


@dataclass(frozen=True)
class Changes:
    """Ids of the items that differ. One of which texts and price changed is in `texts` and in `metadata`."""

    new: pa.StringArray
    removed: pa.StringArray
    texts: pa.StringArray
    """In both snapshots, with other texts, or in another order."""
    pictures: pa.StringArray
    """In both, with other pixels."""
    metadata: pa.StringArray
    """In both, with another group, split, size, source or kept column; or with the same texts and pixels, and anything
    else that their content digest covers, such as the image's path."""

    def __bool__(self) -> bool:
        return any(map(len, (self.new, self.removed, self.texts, self.pictures, self.metadata)))


def changes(corpus: Corpus, before: Snapshot, after: Snapshot) -> Changes:
    """What `after` has otherwise than `before`, in what it costs to read what is written in one alone.

    A metadata column that one snapshot doesn't keep is null there; of two types it is compared as `after`'s.
    """
    keep = {**(before.keep or {}), **(after.keep or {})}
    compared = ["texts", "pixel_hash", "content_digest", *_METADATA, *keep]
    before, after = (each.model_copy(update={"keep": keep}) for each in (before, after))
    old = differing_table(corpus, before, after, ["item_id", *compared])
    new = differing_table(corpus, after, before, ["item_id", *compared])
    place = pc.index_in(new["item_id"], value_set=old["item_id"])
    here, there = new.filter(pc.is_valid(place)), old.take(place.drop_null())
    other = {name: _differs(here[name], there[name]) for name in compared}
    content = other.pop("content_digest") & ~other["texts"] & ~other["pixel_hash"]
    metadata = np.logical_or.reduce([content, *(other[name] for name in (*_METADATA, *keep))])
    return Changes(
        new=_ids(new, _mask(pc.is_null(place))),
        removed=_ids(old, ~_mask(pc.is_in(old["item_id"], value_set=new["item_id"]))),
        texts=_ids(here, other["texts"]),
        pictures=_ids(here, other["pixel_hash"]),
        metadata=_ids(here, metadata),
    )


def newer_items(corpus: Corpus, snapshot: Snapshot, trained: Snapshot) -> int:
    """Items of `snapshot` that `trained` lacks, or has with another picture, other texts, another group or split."""
    known = dict(_learned(corpus, trained, besides=snapshot))
    return sum(known.get(item_id) != content for item_id, content in _learned(corpus, snapshot, besides=trained))


def differing_parts(snapshot: Snapshot, besides: Snapshot) -> Iterator[tuple[Part, pa.StringArray | None]]:
    """The parts with items of `snapshot` that are not written just so in `besides`, and their ids; None for all.

    Of a part that both have these are the items that are dead in `besides` alone. An item that was written anew is
    among them, whether or not it says anything else.
    """
    shared = {part.digest for part in besides.parts}
    for part in snapshot.parts:
        if part.digest not in shared:
            yield part, None
            continue
        dead, dead_there = (each.tombstones.get(part.digest, ()) for each in (snapshot, besides))
        if own := sorted(set(dead_there) - set(dead)):
            yield part, pa.array(own, pa.string())


def differing(
    corpus: Corpus, snapshot: Snapshot, besides: Snapshot, columns: Sequence[str]
) -> Iterator[tuple[Part, pa.RecordBatch]]:
    """The items of `differing_parts`, a batch at a time, and the part they are in; no others are read."""
    for part, own in differing_parts(snapshot, besides):
        for batch in corpus.read(snapshot, part, columns, among=None if own is None else ("item_id", own)):
            yield part, batch


def differing_table(corpus: Corpus, snapshot: Snapshot, besides: Snapshot, columns: Sequence[str]) -> pa.Table:
    """All that `differing` yields, in one piece."""
    batches = [batch for _, batch in differing(corpus, snapshot, besides, columns)]
    fields = item_schema(snapshot.keep or {})
    schema = pa.schema([pa.field(name, fields.field(name).type) for name in columns])
    return pa.Table.from_batches(batches, schema).combine_chunks()


def _learned(corpus: Corpus, snapshot: Snapshot, besides: Snapshot) -> Iterator[tuple[str, str]]:
    """Each item's id and a digest of what is learned of it, but for those that `besides` has just so."""
    for _, batch in differing(corpus, snapshot, besides, ["item_id", "pixel_hash", "texts", "group", "split"]):
        for row in batch.to_pylist():
            yield row.pop("item_id"), digest(row)


def _ids(rows: pa.Table, chosen_N: npt.NDArray[np.bool_]) -> pa.StringArray:
    return rows["item_id"].filter(pa.array(chosen_N)).combine_chunks()


def _differs(here: pa.ChunkedArray, there: pa.ChunkedArray) -> npt.NDArray[np.bool_]:
    """(N,): whether two columns differ in a row. Nulls are alike."""
    differs_N = _mask(pc.is_null(here)) ^ _mask(pc.is_null(there))
    if not pa.types.is_list(here.type):
        return differs_N | _mask(pc.not_equal(here, there))
    differs_N |= _mask(pc.not_equal(pc.list_value_length(here), pc.list_value_length(there)))
    alike = np.flatnonzero(~differs_N)
    here, there = (each.take(pa.array(alike)).combine_chunks() for each in (here, there))
    values = _differs(pc.list_flatten(here), pc.list_flatten(there))
    differs_N[alike[np.asarray(pc.list_parent_indices(here))[values]]] = True
    return differs_N


def _mask(values: pa.ChunkedArray) -> npt.NDArray[np.bool_]:
    return np.asarray(pc.fill_null(values, False), dtype=bool)
