"""What rows become, which split they are in and what leaves: the pure rules, beside slow and obvious versions."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from pairloom.storage.corpus import SPLITS
from pairloom.storage.images.config import IngestConfig
from pairloom.storage.images.limits import Limits
from pairloom.storage.images.location import ImageAt
from pairloom.storage.images.stored_image import RejectedImage
from pairloom.storage.ingestion.chunk import Chunk
from pairloom.storage.ingestion.images import UNKNOWN, Found
from pairloom.storage.ingestion.known_rows import KnownRows
from pairloom.storage.ingestion.number_set import NumberSet
from pairloom.storage.ingestion.rejections import rejections
from pairloom.storage.ingestion.removals import Gone, judge_removals
from pairloom.storage.ingestion.row_facts import facts, fresh_row
from pairloom.storage.ingestion.settling import Picture, Settling
from pairloom.storage.ingestion.splits import Fractions, assign_splits, group_position
from pairloom.storage.reasons import Reason
from pairloom.storage.sources.config import JsonlSource
from pairloom.storage.sources.raw_row import RawRow
from pairloom.storage.sources.source_row import SourceRow

LIMITS = Limits(max_side=64, min_side=8, max_pixels=1_000)
CONFIG = IngestConfig(max_side=64, min_side=8, max_pixels=1_000)
PICTURES = [
    Picture(digit * 32, "0" * 16, width, 10, digit * 32)
    for digit, width in (("a", 10), ("b", 10), ("c", 200), ("d", 4))
]
BROKEN = RejectedImage(Reason.IMAGE_TIMEOUT, "took more than 20 seconds", attempts=3)

IMAGES = st.sampled_from([*PICTURES, BROKEN])
IDS, TEXTS, PRICES = st.sampled_from("123"), st.sampled_from([("a",), ("a", "b"), ("b",)]), st.sampled_from([None, 1])
ROWS = st.lists(st.tuples(IDS, TEXTS, PRICES, IMAGES), max_size=12)


def source_row(number: int, item_id: str, texts: tuple[str, ...], price: int | None) -> SourceRow:
    return SourceRow(
        source="rows",
        number=number,
        item_id=item_id,
        image=ImageAt("a.png", "1:1", 1, Path("a.png")),
        image_path="a.png",
        texts=texts,
        group=None,
        split=None,
        metadata={"price": price},
    )


def obvious(rows: Sequence[tuple[SourceRow, Picture | RejectedImage]]) -> list[str]:
    """What each row becomes, found by looking at every row before it."""
    found: list[str] = []
    for place, (row, image) in enumerate(rows):
        if isinstance(image, RejectedImage):
            found.append(image.reason)
            continue
        if image.width * image.height > LIMITS.max_pixels:
            found.append("image-too-large")
            continue
        if min(image.width, image.height) < LIMITS.min_side:
            found.append("image-too-small")
            continue
        items = [earlier for earlier in range(place) if found[earlier] == "item"]
        same_id = [(rows[each][0], rows[each][1]) for each in items if rows[each][0].item_id == row.item_id]
        twins = [each for each in items if rows[each][1] == image and rows[each][0].texts == row.texts]
        if same_id:
            (other, picture) = same_id[0]
            same = (other.texts, other.metadata, picture) == (row.texts, row.metadata, image)
            found.append("same-item" if same else "id-repeated")
        else:
            found.append("same-image-and-texts" if twins else "item")
    return found


@settings(max_examples=200, deadline=None, derandomize=True)
@given(ROWS, st.integers(0, 12))
def test_rows_are_settled_as_by_looking_at_every_earlier_row(
    drawn: list[tuple[str, tuple[str, ...], int | None, Picture]], cut: int
) -> None:
    rows = [
        (source_row(number, item_id, texts, price), image)
        for number, (item_id, texts, price, image) in enumerate(drawn)
    ]
    fresh = [
        fresh_row(RawRow(row.number, "", None, dict), bytes(16), row, Found(image, UNKNOWN), None)
        for row, image in rows
    ]
    known, settling, chunks = KnownRows(Path("none")), Settling(), []
    for some in (fresh[:cut], fresh[cut:]):
        chunk = Chunk(
            "rows",
            numbers=np.array([each.raw.number for each in some], np.int64),
            known=np.full(len(some), -1),
            fresh=facts(some, CONFIG),
        )
        chunk.settle(known, settling, LIMITS, {})
        chunks.append(chunk)
    rejected = {each["row"]: each for each in rejections(known, chunks, CONFIG).to_pylist()}
    found = [rejected[number]["reason"] if number in rejected else "item" for number in range(len(rows))]
    assert found == obvious(rows)
    assert all(each["attempts"] == 3 for each in rejected.values() if each["reason"] == BROKEN.reason)


def test_a_set_of_numbers_holds_what_was_put_in() -> None:
    drawn, kept, numbers = np.random.default_rng(0), set[int](), NumberSet()
    for size in (0, 1, 7, 300, 2, 50, 50, 1, 0):
        some = drawn.integers(2**64 - 500, 2**64, size, np.uint64, endpoint=False)
        numbers.add(some)
        kept.update(some.tolist())
        asked = np.arange(2**64 - 600, 2**64, dtype=np.uint64)
        assert numbers.holds(asked).tolist() == [each in kept for each in asked.tolist()]


KEYS = [f"group {number}" for number in range(6)]
MEMBERS = st.lists(
    st.tuples(st.sampled_from(KEYS), st.sampled_from([None, None, None, "train", "val", "test"])), max_size=12
)


def assigned(members: Sequence[tuple[str, str | None]], fractions: Fractions) -> list[str]:
    positions = np.array([group_position(key) for key, _ in members], np.uint64)
    named = np.array([-1 if name is None else SPLITS.index(name) for _, name in members], np.int8)
    return [SPLITS[split] for split in assign_splits(positions, named, fractions)]


@settings(max_examples=200, deadline=None, derandomize=True)
@given(MEMBERS, st.sampled_from([Fractions(0.5, 0.4), Fractions(0.1, 0.1), Fractions(0.0, 0.0)]))
def test_a_group_has_one_split_but_for_what_the_source_names(
    drawn: list[tuple[str, str | None]], fractions: Fractions
) -> None:
    splits = assigned(drawn, fractions)
    for key in KEYS:
        named = [name for each, name in drawn if each == key and name]
        own = {split for (each, name), split in zip(drawn, splits, strict=True) if each == key and name is None}
        assert len(own) <= 1
        if named:
            assert own <= {named[0]}
    assert [split for (_, name), split in zip(drawn, splits, strict=True) if name] == [
        name for _, name in drawn if name
    ]
    free = [each for each, name in drawn if not any(key == each and other for key, other in drawn)]
    # Whatever could be for training is, until there are two such items.
    assert splits.count("train") >= min(2, len(free))


def test_splits_are_those_of_the_hash_where_there_is_enough_to_train_on() -> None:
    fractions = Fractions(0.3, 0.3)
    keys = [f"group {number}" for number in range(200)]
    splits = assigned([(key, None) for key in keys], fractions)
    assert splits == [fractions.split(group_position(key)) for key in keys]
    counted = Counter(splits)
    assert all(counted[name] > 40 for name in ("train", "val", "test"))


def test_a_collection_of_one_group_is_for_training_whatever_its_name() -> None:
    fractions = Fractions(0.1, 0.1)
    names = [f"class {number}" for number in range(100)]
    assert any(fractions.split(group_position(name)) != "train" for name in names)
    assert all(set(assigned([(name, None)] * 5, fractions)) == {"train"} for name in names)


def gone(*numbers: int, source: str = "rows", served_elsewhere: bool = False) -> list[Gone]:
    return [Gone(str(number), source, f"{number}.png", served_elsewhere) for number in numbers]


def rows_source(mode: str = "mirror", max_removed: float | None = None) -> JsonlSource:
    return JsonlSource.model_validate({"path": "x.jsonl", "name": "rows", "mode": mode, "max_removed": max_removed})


def test_what_is_gone_leaves_unless_too_much_would() -> None:
    leaves = judge_removals(gone(1, 2), {"rows": 10}, [], [rows_source()], 0.2)
    assert (leaves.stay, leaves.held, leaves.warnings) == (frozenset(), 0, ())
    held = judge_removals(gone(1, 2, 3), {"rows": 10}, [], [rows_source()], 0.2)
    assert (set(held.stay), held.held) == ({"1", "2", "3"}, 3)
    assert "3 of 10 items of rows would leave, more than max_removed allows (20%)" in held.warnings[0]
    assert "--accept-removals" in held.warnings[0]
    assert judge_removals(gone(1, 2, 3), {"rows": 10}, [], [rows_source(max_removed=0.5)], 0.2).stay == frozenset()
    assert judge_removals(gone(1), {"rows": 10}, [], [rows_source(max_removed=0.0)], 0.2).held == 1


def test_a_source_that_left_the_configuration_is_guarded_too() -> None:
    held = judge_removals(gone(1, source="old"), {"old": 1, "rows": 9}, [], [rows_source()], 0.2)
    assert held.stay == {"1"}
    assert "1 of 1 items of old, which is no source of the pipeline any more, would leave" in held.warnings[0]
    assert judge_removals(gone(1, source="old"), {"old": 1}, [], [rows_source()], 1.0).stay == frozenset()


def test_content_that_another_item_serves_and_texts_that_were_corrected_are_no_losses() -> None:
    assert judge_removals(gone(1, 2, 3, served_elsewhere=True), {"rows": 3}, [], [rows_source()], 0.2).held == 0
    new = [("rows", "1.png"), ("rows", "2.png")]
    assert judge_removals(gone(1, 2), {"rows": 3}, new, [rows_source()], 0.2).held == 0
    # Two texts of one picture are gone, one is new: which one it replaces is unknown.
    two = [Gone("a", "rows", "1.png", False), Gone("b", "rows", "1.png", False)]
    assert judge_removals(two, {"rows": 3}, [("rows", "1.png")], [rows_source()], 0.2).stay == {"a", "b"}


def test_a_source_that_is_appended_to_loses_nothing_and_holds_nothing() -> None:
    stays = judge_removals(gone(1, 2, 3), {"rows": 3}, [], [rows_source("append")], 0.2)
    assert (set(stays.stay), stays.held, stays.warnings) == ({"1", "2", "3"}, 0, ())
