"""What differs between two snapshots, against two dictionaries compared item by item."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from pairloom.storage.changes import changes, differing_table
from pairloom.storage.corpus import EMPTY, Corpus, Snapshot
from pairloom.storage.schema import ColumnType, item_schema

Items = dict[str, dict[str, Any]]
KEEP: dict[str, ColumnType] = {"price": "float64", "tags": "list<string>"}
KINDS = ("new", "removed", "texts", "pictures", "metadata")


def item(random: np.random.Generator, item_id: str) -> dict[str, Any]:
    """Of few values, so that many items say the same."""
    few = [str(number) for number in random.integers(3, size=8)]
    return {
        "item_id": item_id,
        "image": {"bytes": b"", "path": f"{few[0]}.png"},
        "texts": few[1 : 2 + int(few[1])],
        "pixel_hash": few[2],
        "group": few[3] if few[3] != "0" else None,
        "split": ["train", "val", "test"][int(few[4])],
        "width": int(few[5]),
        "source": "s",
        "price": float(few[6]) if few[6] != "0" else None,
        "tags": [[], None, ["a", None]][int(few[7])],
        "ingested_at": datetime.fromtimestamp(float(random.integers(1_000_000)), UTC),
    }


def digested(row: dict[str, Any]) -> dict[str, Any]:
    covered = {name: value for name, value in row.items() if name not in ("split", "ingested_at")}
    return {**row, "content_digest": repr(covered)}


def stored(corpus: Corpus, before: Snapshot, items: Items, rewritten: set[str]) -> Snapshot:
    """A snapshot on top of `before` that holds `items`, those of `rewritten` and what is new in a part of its own."""
    living = set(rows_of(corpus, before))
    gone = (living - set(items)) | (rewritten & living)
    fresh = [digested(items[item_id]) for item_id in items if item_id not in living or item_id in rewritten]
    tombstones = dict(before.tombstones)
    for part in before.parts:
        own = {item_id for item_id in gone if item_id in corpus.part_ids(before, part).to_pylist()}
        if own:
            tombstones[part.digest] = (*tombstones.get(part.digest, ()), *sorted(own))
    parts = before.parts
    if fresh:
        parts = (*parts, corpus.write_items(pa.Table.from_pylist(fresh, item_schema(KEEP)), before))
    update = {"number": before.number + 1, "parts": parts, "tombstones": tombstones, "keep": KEEP, "quarantine": ()}
    return corpus.commit(before.model_copy(update=update), {})


def rows_of(corpus: Corpus, snapshot: Snapshot) -> Items:
    columns = ["item_id", "image", "texts", "pixel_hash", "group", "split", "width", "source", "price", "tags"]
    return {row["item_id"]: row for row in corpus.table(snapshot, columns).to_pylist()}


def slow_changes(before: Items, after: Items) -> dict[str, list[str]]:
    both = sorted(set(before) & set(after))
    other = {
        item_id: {name for name in after[item_id] if before[item_id][name] != after[item_id][name]} for item_id in both
    }
    path = {each for each in both if other[each] == {"image"}}
    return {
        "new": sorted(set(after) - set(before)),
        "removed": sorted(set(before) - set(after)),
        "texts": [each for each in both if "texts" in other[each]],
        "pictures": [each for each in both if "pixel_hash" in other[each]],
        "metadata": [each for each in both if each in path or other[each] - {"image", "texts", "pixel_hash"}],
    }


@pytest.mark.parametrize("seed", range(3))
def test_changes_match_a_comparison_item_by_item_over_random_histories(tmp_path: Path, seed: int) -> None:
    random, corpus = np.random.default_rng(seed), Corpus(tmp_path)
    items: Items = {}
    snapshots = [EMPTY]
    for _ in range(5):
        chosen = [f"i{number}" for number in random.permutation(30)[:12]]
        edited = {each for each in chosen[:5] if each in items}
        rewritten = edited | {each for each in chosen[5:7] if each in items}
        for item_id in chosen[7:9]:
            items.pop(item_id, None)
        for item_id in (*edited, *(each for each in chosen[9:] if each not in items)):
            items[item_id] = item(random, item_id)
        snapshots.append(stored(corpus, snapshots[-1], items, rewritten))
    for before in snapshots:
        for after in snapshots:
            found = changes(corpus, before, after)
            wanted = slow_changes(rows_of(corpus, before), rows_of(corpus, after))
            assert {kind: sorted(getattr(found, kind).to_pylist()) for kind in KINDS} == wanted
            assert bool(found) == any(wanted.values())


def test_parts_that_both_have_are_not_read(tmp_path: Path) -> None:
    random, corpus = np.random.default_rng(0), Corpus(tmp_path)
    items = {f"i{number}": item(random, f"i{number}") for number in range(9)}
    before = stored(corpus, EMPTY, items, set())
    items["more"] = item(random, "more")
    after = stored(corpus, before, items, set())
    corpus.part_path(before.parts[0]).write_bytes(b"")
    found = changes(corpus, before, after)
    assert (found.new.to_pylist(), len(found.removed)) == (["more"], 0)
    assert differing_table(corpus, after, before, ["item_id"])["item_id"].to_pylist() == ["more"]
    assert not changes(corpus, after, after)


def test_a_column_that_one_snapshot_does_not_keep_is_null_there(tmp_path: Path) -> None:
    random, corpus = np.random.default_rng(0), Corpus(tmp_path)
    items = [digested({**item(random, name), "price": price}) for name, price in (("a", None), ("b", 2.0))]
    tags: dict[str, ColumnType] = {"tags": "list<string>"}
    bare = corpus.write_items(pa.Table.from_pylist(items, item_schema(tags)), EMPTY)
    older = corpus.commit(EMPTY.model_copy(update={"number": 1, "parts": (bare,), "keep": tags}), {})
    anew = corpus.write_items(pa.Table.from_pylist(items, item_schema(KEEP)), older)
    after = corpus.commit(older.model_copy(update={"number": 2, "parts": (anew,), "keep": KEEP}), {})
    for before, later in ((older, after), (after, older)):
        assert changes(corpus, before, later).metadata.to_pylist() == ["b"]
