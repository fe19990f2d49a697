"""After any history of edits, one more night leaves the corpus that a first night over the same sources would leave.

    python -m benchmarks.histories --histories 500

Hypothesis plays histories over real files: two caption files with an id column, or one without beside a folder of
pictures. Rows are added, dropped, reordered, edited, swapped and repeated; pictures are drawn anew, touched, moved,
linked, broken and erased; sources are renamed, lost and found; `where`, limits, caps, fractions, `max_side`, `trim`,
`keep` and what becomes of near-duplicates change; what is known of rows or compared pictures is lost, or that of an
earlier night, the newest snapshot is lost; nights are interrupted, or hold removals back. After each whole night the
corpus is compared with that of a first night: items with all they store but the time, rejections, counts. Groups of
near-duplicates are in one split. A further night must find nothing to do and nothing to decode.

Images are decoded by what the decoding children run, in this process: starting children would take most of the time.
"""

import argparse
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test
from PIL import Image, ImageOps

from pairloom.storage.corpus import Corpus, Snapshot
from pairloom.storage.images.config import IngestConfig
from pairloom.storage.images.location import Origin
from pairloom.storage.images.stored_image import DecodedImage, RejectedImage, decode_file
from pairloom.storage.ingest import Ingest, RowCounts
from pairloom.storage.schema import ColumnType
from pairloom.storage.sources.columns import ColumnsConfig
from pairloom.storage.sources.config import FolderSource, JsonlSource, SourceConfig

Row = dict[str, Any]

PICTURES = ("images/a.png", "images/b.png", "images/c.jpg", "pics/d.png", "pics/sub/e.png", "pics/f.jpg")
COLOURS, SIZES = ("red", "lime", "navy", "#f90000", "#f30000"), ((8, 8), (20, 12), (70, 40))
FRAMED = SIZES[1]
"""Pictures of this size have a white border, which `trim` cuts."""
LOOKS = st.tuples(st.sampled_from(COLOURS), st.sampled_from(SIZES))
KEEPS: tuple[dict[str, ColumnType], ...] = (
    {},
    {"price": "int64"},
    {"price": "string"},
    {"price": "float64", "group": "string"},
)
ROWS = st.fixed_dictionaries(
    {
        "id": st.sampled_from(("1", "5", "7", "8", "9", "")),
        "image": st.sampled_from((*PICTURES, "images/none.png")),
        "text": st.sampled_from(("red", "blue", "sky", "sea", ["red", "crimson"], "")),
        "key": st.sampled_from((None, "g", "h")),
        "part": st.sampled_from((None, None, None, "train", "val", "odd")),
        "price": st.sampled_from((1, None, 2, 3, "dear")),
    }
)
PLACES = st.integers(0, 7)
SOURCES = st.sampled_from(("one", "two"))
MODES = ("keep", "merge", "drop")
THEN = st.sampled_from(("night", "edit", "night", "edit", "held", "interrupted", *MODES))


class _InterruptedError(Exception):
    pass


class Decoder:
    """Decodes in this process; counts, and breaks off after so many images where told to."""

    def __init__(self) -> None:
        self.decoded = 0
        self.breaks_after: int | None = None

    def __call__(
        self, items: Iterable[tuple[Any, Origin]], config: IngestConfig
    ) -> Iterator[tuple[Any, DecodedImage | RejectedImage]]:
        for key, path in items:
            assert isinstance(path, Path), "these sources name files"
            if self.breaks_after is not None and self.decoded >= self.breaks_after:
                raise _InterruptedError
            self.decoded += 1
            yield key, decode_file(path, config.limits)


class Collection:
    """Caption files, pictures and a configuration that a history changes."""

    def __init__(self, folder: Path, *, ids: bool) -> None:
        self.folder = folder
        self.ids = ids
        self.rows: dict[str, list[Row]] = {"one": [], "two": []}
        self.labels = {"one": "first", "two": "second"}
        self.lost: set[str] = set()
        self.where: str | None = None
        self.keep: dict[str, ColumnType] = {}
        self.config = IngestConfig(workers=1, part_rows=3, min_side=4, max_side=64)
        self._time = 10**18

    def sources(self, max_removed: float) -> list[SourceConfig]:
        """What `sources:` says, with the files of tonight."""
        found: list[SourceConfig] = []
        for name in ("one", "two"):
            file = self.folder / f"{name}.jsonl"
            file.write_text("".join(json.dumps(row) + "\n" for row in self.rows[name]), encoding="utf-8")
            common: dict[str, Any] = {"name": self.labels[name], "where": self.where, "max_removed": max_removed}
            if name in self.lost:
                continue
            if name == "two" and not self.ids:
                found.append(FolderSource(path=self.folder / "pics", **common))
            else:
                found.append(JsonlSource(path=file, **common))
        return found

    def columns(self) -> ColumnsConfig:
        """What `columns:` says: a folder has columns of its own."""
        if not self.ids:
            return ColumnsConfig()
        return ColumnsConfig(
            id="id",
            group="key",
            split="part",
            keep={f"my_{name}": {"column": "price", "type": kind} for name, kind in self.keep.items()},
        )

    def stamp(self, path: Path) -> None:
        """Give a file a time that no other had."""
        self._time += 1_000_000_000
        os.utime(path, ns=(self._time, self._time))

    def draw(self, name: str, colour: str, size: tuple[int, int]) -> None:
        """Make or replace a picture."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        picture = Image.new("RGB", size, colour)
        if size == FRAMED:
            picture = ImageOps.expand(picture, 6, "white")
        picture.save(path)
        self.stamp(path)


class Histories(RuleBasedStateMachine):
    """Edits, each followed by nothing or by a night."""

    nights = 0

    def __init__(self) -> None:
        super().__init__()
        self.root = Path(tempfile.mkdtemp(prefix="history-"))
        self.renamed = 0

    @initialize(ids=st.booleans(), mode=st.sampled_from(MODES))
    def begin(self, ids: bool, mode: str) -> None:
        self.collection = Collection(self.root, ids=ids)
        for number, name in enumerate(PICTURES):
            self.collection.draw(name, COLOURS[number % 3], SIZES[number // 2])
        for number, name in enumerate((*PICTURES, *PICTURES[:2])):
            row = {"id": str(number), "image": name, "text": f"text {number}", "key": "ghi"[number % 3]}
            source = "one" if number < 5 else "two"
            self.collection.rows[source].append({**row, "part": None, "price": number})
        self.write_caption("pics/d.txt", "red")
        self.write_caption("pics/sub/e.txt", "blue\nsky")
        self.then(mode)

    @rule(source=SOURCES, place=PLACES, row=ROWS, then=THEN)
    def add(self, source: str, place: int, row: Row, then: str) -> None:
        self.collection.rows[source].insert(place, row)
        self.then(then)

    @rule(source=SOURCES, place=PLACES, then=THEN)
    def drop(self, source: str, place: int, then: str) -> None:
        if rows := self.collection.rows[source]:
            rows.pop(place % len(rows))
        self.then(then)

    @rule(source=SOURCES, place=PLACES, then=THEN)
    def empty(self, source: str, place: int, then: str) -> None:
        del self.collection.rows[source][place:]
        self.then(then)

    @rule(source=SOURCES, then=THEN)
    def reverse(self, source: str, then: str) -> None:
        self.collection.rows[source].reverse()
        self.then(then)

    @rule(
        source=SOURCES,
        place=PLACES,
        row=ROWS,
        key=st.sampled_from(("id", "image", "text", "text", "key", "part", "price")),
        then=THEN,
    )
    def edit(self, source: str, place: int, row: Row, key: str, then: str) -> None:
        if rows := self.collection.rows[source]:
            rows[place % len(rows)] = {**rows[place % len(rows)], key: row[key]}
        self.then(then)

    @rule(source=SOURCES, place=PLACES, other=PLACES, then=THEN)
    def swap(self, source: str, place: int, other: int, then: str) -> None:
        """Two rows trade all but their ids."""
        if rows := self.collection.rows[source]:
            a, b = rows[place % len(rows)], rows[other % len(rows)]
            rows[place % len(rows)], rows[other % len(rows)] = {**b, "id": a["id"]}, {**a, "id": b["id"]}
        self.then(then)

    @rule(source=SOURCES, target_=SOURCES, place=PLACES, text=st.sampled_from(("red", "green")), then=THEN)
    def repeat(self, source: str, target_: str, place: int, text: str, then: str) -> None:
        """An id comes twice, in one file or in two."""
        if rows := self.collection.rows[source]:
            self.collection.rows[target_].append({**rows[place % len(rows)], "text": text})
        self.then(then)

    @rule(name=st.sampled_from(PICTURES), look=LOOKS, then=THEN)
    def draw(self, name: str, look: tuple[str, tuple[int, int]], then: str) -> None:
        self.collection.draw(name, *look)
        self.then(then)

    @rule(then=THEN)
    def touch(self, then: str) -> None:
        """A copy or a checkout: new times everywhere."""
        for path in sorted(self.root.rglob("*.[jp][pn]g")):
            if path.exists():  # a link may lead nowhere
                self.collection.stamp(path)
        self.then(then)

    @rule(name=st.sampled_from(PICTURES), what=st.sampled_from(("erase", "break")), then=THEN)
    def spoil(self, name: str, what: str, then: str) -> None:
        path = self.root / name
        path.unlink(missing_ok=True)
        if what == "break" and path.parent.is_dir():
            path.write_bytes(b"no picture")
            self.collection.stamp(path)
        self.then(then)

    @rule(name=st.sampled_from(PICTURES), other=st.sampled_from(PICTURES), then=THEN)
    def move(self, name: str, other: str, then: str) -> None:
        """A picture takes another one's place, with its time; the captions follow."""
        path, goal = self.root / name, self.root / other
        if path.is_file() and path.suffix == goal.suffix:
            goal.parent.mkdir(parents=True, exist_ok=True)
            path.replace(goal)
            for rows in self.collection.rows.values():
                for row in rows:
                    row["image"] = other if row["image"] == name else row["image"]
        self.then(then)

    @rule(
        name=st.sampled_from(("pics/d.txt", "pics/sub/e.txt", "pics/f.txt")),
        text=st.sampled_from(("red", "red\nblue", "", None)),
        then=THEN,
    )
    def caption(self, name: str, text: str | None, then: str) -> None:
        self.write_caption(name, text)
        self.then(then)

    @rule(name=st.sampled_from(PICTURES), other=st.sampled_from(PICTURES), then=THEN)
    def link(self, name: str, other: str, then: str) -> None:
        """A picture becomes a link to another one."""
        path, goal = self.root / name, self.root / other
        if name != other and path.parent.is_dir() and not goal.is_symlink():
            path.unlink(missing_ok=True)
            path.symlink_to(goal)
        self.then(then)

    @rule(what=st.sampled_from(("lose", "set aside", "bring back", "lose pictures")), then=THEN)
    def memory(self, what: str, then: str) -> None:
        """What is known of rows is deleted, or is that of some earlier night: a backup that came back."""
        known, aside = self.root / "grown" / "known" / "rows.parquet", self.root / "aside.parquet"
        if what == "bring back" and aside.exists():
            shutil.copy(aside, known)
        elif what == "set aside" and known.exists():
            shutil.copy(known, aside)
        elif what == "lose":
            known.unlink(missing_ok=True)
        elif what == "lose pictures":
            known.with_name("near-pictures.parquet").unlink(missing_ok=True)
        self.then(then)

    @rule(then=THEN)
    def go_back(self, then: str) -> None:
        """The newest snapshot is lost; a later one takes its number."""
        log = Corpus(self.root / "grown").log
        if len(log.numbers()) > 1:
            log.path(max(log.numbers())).unlink()
        self.then(then)

    @rule(source=SOURCES, then=THEN)
    def rename(self, source: str, then: str) -> None:
        """A source is called by a name that none had."""
        self.renamed += 1
        self.collection.labels[source] = f"name {self.renamed}"
        self.then(then)

    @rule(source=SOURCES, then=THEN)
    def lose_or_find(self, source: str, then: str) -> None:
        self.collection.lost ^= {source}
        self.then(then)

    @rule(where=st.sampled_from((None, "image LIKE '%a%' OR image LIKE '%d%'")), then=THEN)
    def filter(self, where: str | None, then: str) -> None:
        self.collection.where = where
        self.then(then)

    @rule(
        limits=st.sampled_from(
            (
                {"min_side": 10},
                {"max_pixels": 100},
                {"min_side": 4},
                {"max_pixels": 10_000},
                {"max_side": 8},
                {"max_side": 64},
                {"max_side": 128},
                {"trim": False},
                {"trim": True},
            )
        ),
        then=THEN,
    )
    def limit(self, limits: dict[str, int], then: str) -> None:
        self.collection.config = self.collection.config.model_copy(update=limits)
        self.then(then)

    @rule(most=st.sampled_from((None, 1, 2)), then=THEN)
    def cap(self, most: int | None, then: str) -> None:
        self.collection.config = self.collection.config.model_copy(update={"max_per_text": most})
        self.then(then)

    @rule(bits=st.sampled_from((4, 0)), then=THEN)
    def resemble(self, bits: int, then: str) -> None:
        self.collection.config = self.collection.config.model_copy(update={"near_duplicate_bits": bits})
        self.then(then)

    @rule(shares=st.sampled_from(((0.5, 0.0), (0.0, 0.4), (0.5, 0.4), (0.1, 0.1))), then=THEN)
    def divide(self, shares: tuple[float, float], then: str) -> None:
        val, test = shares
        fractions = {"val_fraction": val, "test_fraction": test}
        self.collection.config = self.collection.config.model_copy(update=fractions)
        self.then(then)

    @rule(keep=st.sampled_from(KEEPS), then=THEN)
    def keep(self, keep: dict[str, ColumnType], then: str) -> None:
        self.collection.keep = keep
        self.then(then)

    def teardown(self) -> None:
        try:
            if hasattr(self, "collection"):
                self.then("night")
        finally:
            shutil.rmtree(self.root)

    def write_caption(self, name: str, text: str | None) -> None:
        path = self.root / name
        path.unlink(missing_ok=True)
        if text is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")

    def then(self, what: str) -> None:
        """What follows an edit: nothing, or a night, for one in which near-duplicates are treated otherwise.

        Pictures of one colour are near-duplicates whatever their size; so are reds, but for the outermost.
        """
        if what in MODES:
            self.collection.config = self.collection.config.model_copy(update={"near_duplicates": what})
            self.compare()
        if what == "held":
            self.ingest("grown", Decoder(), max_removed=0.2)
        if what == "interrupted":
            broken = Decoder()
            broken.breaks_after = 1
            try:
                self.ingest("grown", broken)
            except _InterruptedError:
                return
        if what == "night":
            self.compare()

    def compare(self) -> None:
        """One whole night, against a first night, and once more."""
        type(self).nights += 1
        grown, counts = self.ingest("grown", Decoder())
        first, expected = self.ingest("first", Decoder())
        assert self.items("grown", grown) == self.items("first", first)
        assert self.rejections("grown", grown) == self.rejections("first", first)
        self.compare_splits("grown", grown)
        assert counts.new + counts.updated + counts.unchanged == expected.new == grown.rows
        rejected = ("seen", "duplicate", "filtered", "quarantined")
        assert [getattr(counts, name) for name in rejected] == [getattr(expected, name) for name in rejected]
        shutil.rmtree(self.root / "first", ignore_errors=True)
        idle = Decoder()
        again, counts = self.ingest("grown", idle)
        assert (again, idle.decoded) == (grown, 0)
        assert counts.new == counts.updated == counts.removed == 0

    def compare_splits(self, name: str, snapshot: Snapshot) -> None:
        """Where no split is named, the group of a near-duplicate is in the split of its twin."""
        names = {label: name for name, label in self.collection.labels.items()}
        if not self.collection.ids or any(row["part"] for rows in self.collection.rows.values() for row in rows):
            return
        items = {row["item_id"]: row for row in self.items(name, snapshot)}
        for each in self.rejections(name, snapshot):
            if each["reason"] == "near-duplicate":
                group = self.collection.rows[names[each["source"]]][each["row"] - 1]["key"]
                twin = items[each["message"].removeprefix("resembles item ")]
                splits = {row["split"] for row in items.values() if group is not None and row["group"] == group}
                assert splits <= {twin["split"]}

    def ingest(self, name: str, decoder: Decoder, max_removed: float = 1.0) -> tuple[Snapshot, RowCounts]:
        columns = self.collection.columns()
        config = self.collection.config.model_copy(update={"max_removed": max_removed})
        ingest = Ingest(Corpus(self.root / name), columns.types, config, decoder)
        return ingest.run(self.collection.sources(max_removed), columns)

    def items(self, name: str, snapshot: Snapshot) -> list[Row]:
        corpus = Corpus(self.root / name)
        columns = [column for column in corpus.columns(snapshot) if column != "ingested_at"]
        return sorted(corpus.table(snapshot, columns).to_pylist(), key=lambda row: str(row["item_id"]))

    def rejections(self, name: str, snapshot: Snapshot) -> list[Row]:
        rows = [row for batch in Corpus(self.root / name).rejected(snapshot) for row in batch.to_pylist()]
        return [{key: value for key, value in row.items() if key != "rejected_at"} for row in rows]


def play(histories: int, steps: int, *, derandomize: bool = False) -> int:
    """Play so many histories of up to so many edits; returns how many whole nights were compared."""
    Histories.nights = 0
    run_state_machine_as_test(
        Histories,
        settings=settings(
            max_examples=histories,
            stateful_step_count=steps,
            deadline=None,
            derandomize=derandomize,
            database=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
    return Histories.nights


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--histories", type=int, default=500)
    parser.add_argument("--steps", type=int, default=15)
    asked = parser.parse_args()
    load, started, used = os.getloadavg()[0], time.monotonic(), time.process_time()
    nights = play(asked.histories, asked.steps)
    seconds, cpu = time.monotonic() - started, time.process_time() - used
    sys.stdout.write(
        f"{asked.histories} histories of up to {asked.steps} edits, {nights} nights compared, no difference; "
        f"{seconds:,.0f} s, {cpu:,.0f} s of them CPU; {os.cpu_count()} cores, load {load:.1f} at the start\n"
    )


if __name__ == "__main__":
    main()
