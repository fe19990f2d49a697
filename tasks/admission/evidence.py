"""What tonight's rows are judged by: the released items, the new and changed rows, and what differs between them."""

# N = released items, M = new and changed rows

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import pyarrow as pa

from pairloom.models.arrays import Indices, Mask
from pairloom.storage.changes import Changes, changes, differing
from pairloom.storage.corpus import Corpus, Part, Snapshot
from pairloom.storage.schema import item_schema
from pairloom.tasks.admission.located import Located, first_texts, numbered

HELD = ("item_id", "split")
COLUMNS = ("item_id", "texts", "pixel_hash", "split", "group")


@dataclass(frozen=True)
class Side:
    """One side of the items: equal numbers are equal captions, or equal pictures."""

    what: str
    value_N: Indices
    """Of the released items."""
    value_M: Indices
    """Of the fresh rows."""
    changed_M: Mask
    """Which fresh rows are released items with another one."""


@dataclass(frozen=True)
class Evidence:
    """A night's rows beside the release that they would replace."""

    changes: Changes
    released: Located
    """Their `HELD` columns."""
    released_rows: Callable[[Indices, Sequence[str]], pa.Table]
    """Columns, `item_id` the first of them, of some of these."""
    fresh: Located
    """The items of tonight that are new, or have other texts or another picture."""
    new_M: Mask
    """Which of them are new."""
    rewritten: pa.Table
    """The items of tonight that are new or say anything else than before, in a kept column too."""
    captions: Side
    """By an item's first text."""
    pictures: Side
    """By their pixels."""
    group_N: Indices
    """Of the released items, as numbers; those without a group have the same one."""
    group_M: Indices

    @property
    def sides(self) -> tuple[Side, Side]:
        """Both."""
        return self.captions, self.pictures


def gathered(corpus: Corpus, released: Snapshot, tonight: Snapshot) -> Evidence:
    """All of it. Of the released items a few columns are read; of tonight's, those that are written anew."""
    differ = changes(corpus, released, tonight)
    names = (*COLUMNS, "source", *(tonight.keep or {}))
    written = Located.of(differing(corpus, tonight, released, names), _schema(tonight, names))
    fresh = written.among(pa.concat_arrays([differ.new, differ.texts, differ.pictures]))
    before = Located.of(_all(corpus, released, HELD), _schema(released, HELD))
    new_M, texts_M, pictures_M = (fresh.are(each) for each in (differ.new, differ.texts, differ.pictures))
    # One column after the other: of millions of items none is held beside another.
    captions = Side("captions", *_numbered(corpus, released, fresh, "texts", first_texts), texts_M)
    pictures = Side("pictures", *_numbered(corpus, released, fresh, "pixel_hash"), pictures_M)
    groups = _numbered(corpus, released, fresh, "group")
    in_anything = pa.concat_arrays([differ.new, differ.texts, differ.pictures, differ.metadata])
    rewritten = written.among(in_anything).table
    read = partial(before.rows, corpus, released)
    return Evidence(differ, before, read, fresh, new_M, rewritten, captions, pictures, *groups)


def _numbered(
    corpus: Corpus,
    released: Snapshot,
    fresh: Located,
    column: str,
    said: Callable[[pa.Array], pa.Array] = lambda values: values,
) -> tuple[Indices, Indices]:
    """What a column says of the released items and of the fresh ones, as numbers."""
    before = (said(batch[column]) for _, batch in _all(corpus, released, [column]))
    return numbered(before, map(said, fresh.table[column].chunks))


def _all(corpus: Corpus, snapshot: Snapshot, columns: Sequence[str]) -> Iterator[tuple[Part, pa.RecordBatch]]:
    return ((part, batch) for part in snapshot.parts for batch in corpus.read(snapshot, part, columns))


def _schema(snapshot: Snapshot, columns: Sequence[str]) -> pa.Schema:
    fields = item_schema(snapshot.keep or {})
    return pa.schema([pa.field(name, fields.field(name).type) for name in columns])
