"""Near-duplicates over nights: who leaves, whose texts come along, who is in which split, and what that costs."""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image, ImageDraw

from pairloom.storage.corpus import Corpus, Snapshot
from pairloom.storage.images.config import IngestConfig
from pairloom.storage.images.location import Origin
from pairloom.storage.images.stored_image import DecodedImage, RejectedImage, decode_file
from pairloom.storage.ingest import Ingest, RowCounts
from pairloom.storage.quarantine import RejectedRows
from pairloom.storage.sources.columns import ColumnsConfig
from pairloom.storage.sources.config import JsonlSource, SourceConfig

COLUMNS = ColumnsConfig(id="id", group="group", split="split")
MODES = ("keep", "merge", "drop")
Row = dict[str, Any]


def drawing(place: int, colour: str, size: int = 96) -> Image.Image:
    """A drawing: those of another place or colour are no copies of one another."""
    picture = Image.new("RGB", (96, 96), "white")
    draw = ImageDraw.Draw(picture)
    draw.regular_polygon((36 + 6 * place, 30 + 8 * place, 30), 3 + place, fill=colour)
    draw.rectangle((60 - 10 * place, 15, 90, 38), fill="grey")
    return picture.resize((size, size), Image.Resampling.BICUBIC)


class _InterruptedError(Exception):
    pass


class Collection:
    """Rows and pictures of one or more sources, and the corpus that grows with them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.decoded: list[str] = []
        self.breaks_at: str | None = None
        for name, colour in (("red", "#996666"), ("blue", "#667799")):
            drawing(0, colour).save(folder / f"{name}.png")
        drawing(0, "#996666").save(folder / "saved.jpg", quality=90)
        drawing(0, "#996666", 150).save(folder / "large.png")
        drawing(1, "#446622").save(folder / "other.png")

    def source(self, *rows: Row, name: str = "rows") -> JsonlSource:
        path = self.folder / f"{name}.jsonl"
        path.write_text("\n".join(json.dumps(each) for each in rows))
        return JsonlSource(path=path, name=name)

    def decode(
        self, items: Iterable[tuple[Any, Origin]], config: IngestConfig
    ) -> Iterator[tuple[Any, DecodedImage | RejectedImage]]:
        for key, path in items:
            assert isinstance(path, Path), "these sources name files"
            if path.name == self.breaks_at:
                raise _InterruptedError
            self.decoded.append(path.name)
            yield key, decode_file(path, config.limits)

    def night(self, mode: str, *sources: SourceConfig, root: str = "grown", **config: Any) -> "Night":
        self.decoded = []
        corpus = Corpus(self.folder / root)
        # Where a drawing is cut by a hair otherwise, its copy is none: not what is tested here.
        common = {"workers": 1, "part_rows": 2, "trim": False, "near_duplicates": mode}
        settings = IngestConfig.model_validate({**common, **config})
        snapshot, counts = Ingest(corpus, COLUMNS.types, settings, self.decode).run(sources, COLUMNS)
        return Night(corpus, snapshot, counts)

    def first(self, mode: str, *sources: SourceConfig, **config: Any) -> "Night":
        """A night over a corpus of its own."""
        taken = len(list(self.folder.glob("first-*")))
        return self.night(mode, *sources, root=f"first-{taken}", **config)


class Night:
    """What a night leaves."""

    def __init__(self, corpus: Corpus, snapshot: Snapshot, counts: RowCounts) -> None:
        self.snapshot, self.counts = snapshot, counts
        columns = [name for name in corpus.columns(snapshot) if name != "ingested_at"]
        self.items = {row["item_id"]: row for row in corpus.table(snapshot, columns).to_pylist()}
        rows = [row for batch in corpus.rejected(snapshot) for row in batch.to_pylist()]
        self.rejected = [(row["item_id"], row["outcome"], row["reason"], row["message"]) for row in rows]

    @property
    def texts(self) -> dict[str, list[str]]:
        return {item_id: row["texts"] for item_id, row in self.items.items()}

    @property
    def splits(self) -> dict[str, str]:
        return {item_id: row["split"] for item_id, row in self.items.items()}

    def left_as(self, other: "Night") -> bool:
        return (self.items, self.rejected) == (other.items, other.rejected)


def row(item_id: str, image: str, text: str | list[str], **more: Any) -> Row:
    return {"id": item_id, "image": image, "text": text, "group": None, "split": None, **more}


def near(item_id: str, twin: str) -> tuple[str, str, str, str]:
    return item_id, "duplicate", "near-duplicate", f"resembles item {twin}"


RED, BLUE = row("1", "red.png", "a red shape"), row("2", "blue.png", "a blue shape")
SAVED, LARGE = row("3", "saved.jpg", ["saved", "a red shape"]), row("4", "large.png", "large")


@pytest.fixture
def collection(tmp_path: Path) -> Collection:
    return Collection(tmp_path)


def test_kept_pictures_are_not_compared(collection: Collection) -> None:
    night = collection.night("keep", collection.source(RED, BLUE, SAVED, LARGE))
    assert (len(night.items), night.rejected) == (4, [])
    assert not list((collection.folder / "grown" / "known").glob("near-*"))


def test_a_dropped_copy_is_an_item_while_its_twin_is_gone(collection: Collection) -> None:
    both = collection.night("drop", collection.source(RED, BLUE, SAVED))
    assert (set(both.items), both.rejected) == ({"1", "2"}, [near("3", "1")])
    assert (both.counts.new, both.counts.duplicate) == (2, 1)
    counted = RejectedRows(Corpus(collection.folder / "grown"), both.snapshot).counts()
    assert [(each.reason, each.outcome, each.rows) for each in counted] == [("near-duplicate", "duplicate", 1)]
    assert counted[0].example == "rows row 3: resembles item 1"
    again = collection.night("drop", collection.source(RED, BLUE, SAVED))
    assert (again.snapshot, collection.decoded) == (both.snapshot, [])
    alone = collection.night("drop", collection.source(BLUE, SAVED), max_removed=1.0)
    assert (set(alone.items), alone.rejected, collection.decoded) == ({"2", "3"}, [], ["saved.jpg"])
    # Half of the items leave, which is more than `max_removed`: but they are no losses.
    back = collection.night("drop", collection.source(RED, BLUE, SAVED))
    assert back.left_as(both)
    assert (back.counts.removed, back.counts.removals_held) == (1, 0)
    turned = collection.night("drop", collection.source(SAVED, BLUE, LARGE, RED))
    assert (set(turned.items), turned.rejected) == ({"2", "3"}, [near("4", "3"), near("1", "3")])
    assert turned.left_as(collection.first("drop", collection.source(SAVED, BLUE, LARGE, RED)))


def test_merged_texts_follow_every_edit_and_nothing_is_decoded_for_them(collection: Collection) -> None:
    def night(*rows: Row) -> Night:
        source = collection.source(*rows)
        found = collection.night("merge", source, max_removed=1.0)
        decoded = collection.decoded
        assert found.left_as(collection.first("merge", source))
        again = collection.night("merge", source, max_removed=1.0)
        assert (again.snapshot, collection.decoded) == (found.snapshot, [])
        collection.decoded = decoded
        return found

    assert night(RED, BLUE).texts == {"1": ["a red shape"], "2": ["a blue shape"]}
    added = night(RED, BLUE, SAVED)
    assert added.texts == {"1": ["a red shape", "saved"], "2": ["a blue shape"]}
    assert (added.rejected, collection.decoded) == ([near("3", "1")], ["saved.jpg"])
    assert (added.counts.updated, added.counts.unchanged, added.counts.duplicate) == (1, 1, 1)
    assert night(RED, BLUE, SAVED, LARGE).texts["1"] == ["a red shape", "saved", "large"]
    edited = night(RED, BLUE, {**SAVED, "text": "saved again"}, LARGE)
    assert (edited.texts["1"], collection.decoded) == (["a red shape", "saved again", "large"], [])
    own = night({**RED, "text": "large"}, BLUE, {**SAVED, "text": "saved again"}, LARGE)
    assert (own.texts["1"], collection.decoded) == (["large", "saved again"], [])
    without = night({**RED, "text": "large"}, BLUE, LARGE)
    assert (without.texts["1"], collection.decoded) == (["large"], [])
    assert (without.counts.updated, without.rejected) == (1, [near("4", "1")])
    twin_gone = night(BLUE, LARGE)
    assert (twin_gone.texts, collection.decoded) == ({"2": ["a blue shape"], "4": ["large"]}, ["large.png"])


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("then", MODES)
def test_another_mode_leaves_what_it_would_have_from_the_first(collection: Collection, mode: str, then: str) -> None:
    source = collection.source(RED, BLUE, SAVED, row("5", "other.png", "other"), LARGE)
    collection.night(mode, source)
    found = collection.night(then, source)
    # What left stored nothing.
    assert set(collection.decoded) == ({"saved.jpg", "large.png"} if then == "keep" != mode else set())
    assert found.left_as(collection.first(then, source))
    assert collection.night(mode, source).left_as(collection.first(mode, source))


@pytest.mark.parametrize("mode", ["merge", "drop"])
@pytest.mark.parametrize("lost", ["near-*", "rows*", "*"])
def test_what_is_known_may_be_lost(collection: Collection, mode: str, lost: str) -> None:
    def lose() -> None:
        for file in (collection.folder / "grown" / "known").glob(lost):
            file.unlink()

    source, more = collection.source(SAVED, BLUE, RED, LARGE), collection.source(name="more")
    before = collection.night(mode, source, more)
    lose()
    assert collection.night(mode, source, more).snapshot == before.snapshot
    lose()
    # All that is settled before is as it was.
    more = collection.source(row("5", "red.png", "another"), row("6", "other.png", "other"), name="more")
    assert collection.night(mode, source, more).left_as(collection.first(mode, source, more))


@pytest.mark.parametrize("mode", ["merge", "drop"])
@pytest.mark.parametrize("breaks_at", ["saved.jpg", "large.png", "other.png"])
def test_an_interrupted_night_is_run_again(collection: Collection, mode: str, breaks_at: str) -> None:
    collection.night(mode, collection.source(BLUE))
    source = collection.source(RED, BLUE, SAVED, LARGE, row("5", "other.png", "other"))
    collection.breaks_at = breaks_at
    with pytest.raises(_InterruptedError):
        collection.night(mode, source)
    collection.breaks_at = None
    assert collection.night(mode, source).left_as(collection.first(mode, source))


@pytest.mark.parametrize("mode", ["merge", "drop"])
def test_groups_whose_pictures_resemble_one_another_share_a_split(collection: Collection, mode: str) -> None:
    def rows(number: int, **named: str) -> list[Row]:
        return [
            row("1", "red.png", "one", group=f"g{number}"),
            row("2", "blue.png", "two", group=f"h{number}"),
            row("3", "saved.jpg", "three", group=f"h{number}", **named),
        ]

    apart = 0
    for number in range(12):
        source = collection.source(*rows(number))
        kept = collection.night("keep", source, val_fraction=0.5).splits
        apart += kept["1"] != kept["2"]
        found = collection.night(mode, source, val_fraction=0.5)
        assert set(found.items) == {"1", "2"}
        assert found.splits["1"] == found.splits["2"]
    assert apart > 2, "by their groups alone some of them would not"
    named = collection.night(mode, collection.source(*rows(0, split="val")), val_fraction=0.5)
    # It stays, in the split of its name, and what resembles it is there too.
    assert (named.rejected, {named.splits[each] for each in "123"}) == ([], {"val"})


@pytest.mark.parametrize("mode", ["merge", "drop"])
def test_a_copy_in_a_source_that_cannot_be_read_stays_in_the_split_of_its_twin(
    collection: Collection, mode: str
) -> None:
    split = {"val_fraction": 0.5}
    apart = 0
    for number in range(12):
        first = collection.source(row("1", "red.png", "one", group=f"g{number}"), name="first")
        second = collection.source(
            row("3", "saved.jpg", "three", group=f"h{number}"),
            row("5", "other.png", "five", group="i", split="train"),
            row("6", "blue.png", "six", group="j", split="train"),
            name="second",
        )
        root = f"corpus-{number}"
        collection.night(mode, first, root=root, **split)
        apart += len({collection.first("keep", first, second, **split).splits[each] for each in "13"}) > 1
        first.paths[0].unlink()
        # Its twin is not among tonight's rows.
        found = collection.night(mode, first, second, root=root, **split)
        assert set(found.items) == {"1", "3", "5", "6"}
        assert found.splits["1"] == found.splits["3"]
    assert apart > 2, "by their groups alone some of them would not"


@pytest.mark.parametrize("mode", ["merge", "drop"])
def test_what_a_cap_leaves_out_is_nobodys_twin(collection: Collection, mode: str) -> None:
    rows = [{**each, "text": "the same"} for each in (BLUE, RED)]
    found = collection.night(mode, collection.source(*rows, SAVED), max_per_text=1)
    assert set(found.items) == {"2", "3"}
    assert [each[2] for each in found.rejected] == ["text-repeated"]
