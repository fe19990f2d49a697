"""A thousand flipped bits in every kind of file that a pipeline publishes: what finds them, and what readers answer.

    python -m benchmarks.bit_flips --flips 1000 --nights 100

A tiny pipeline (1,300 drawn pictures, two models of 16 dimensions whose trunks are frozen, indexes of vectors and
words, four releases with removals between them) is built by real nights. Then, again and again: one bit of one file is
flipped (the file keeps its modification time), `verify` reads all, a reader opens the current release and answers
texts, an item and SQL, and the bit is flipped back. Readers of every other flip remember what they read through before
(`checked.json`), the others don't. Answers are compared with those that each release gave before.

Part two copies the folder, flips a bit, and runs the night that follows, with ten new rows; every fifth of them trains.
What it released must open, and hold the vectors that an undisturbed night gives its items.
"""

import argparse
import json
import logging
import os
import random
import shutil
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from PIL import Image, ImageDraw

from benchmarks.tiny_nights import TOWERS
from pairloom.flows.config import load_pipeline
from pairloom.flows.nightly import nightly
from pairloom.search.query import Query
from pairloom.search.release import OpenRelease
from pairloom.search.sql import json_rows, run_sql
from pairloom.storage.checked import CheckedFiles
from pairloom.storage.files import DamagedError, FileDigest
from pairloom.storage.verify import Verification, verify

COLOURS = ("red", "green", "blue", "orange", "purple", "black", "brown", "pink")
SHAPES = {"square": 4, "triangle": 3, "pentagon": 5, "hexagon": 6, "circle": 60}
PICTURES, MORE = 1_300, 10
KINDS = {
    "release record": "releases/*.json",
    "snapshot record": "snapshots/*.json",
    "manifest": "manifests/*.json",
    "corpus part": "corpus/*.parquet",
    "quarantine part": "quarantine/*.parquet",
    "weights": "models/*/*.safetensors",
    "model config": "models/*/open_clip_config.json",
    "tokenizer": "models/*/tokenizer*.json",
    "text queries": "models/*/text_queries/*",
    "training texts": "models/*/training_texts/*",
    "exported tower": "models/*/*.onnx",
    "exported tokens": "models/*/text_tokens.json",
    "exported settings": "models/*/onnx.json",
    "model card": "models/*/README.md",
    "lineage": "models/*/pairloom.json",
    "training log": "models/*/training.jsonl",
    "table data": "vectors/*/data/*",
    "table manifest": "vectors/*/_versions/*.manifest",
    "vector index": "vectors/*/_indices/*/*.idx",
    "full-text index": "vectors/*/_indices/*/*.lance",
    "table deletions": "vectors/*/_deletions/*",
    "table transactions": "vectors/*/_transactions/*",
    "table version hint": "vectors/*/_versions/*.json",
    "tag": "vectors/*/_refs/tags/*.json",
    "embeddings part": "embeddings/*/*.parquet",
    "image features": "features/*/*.parquet",
    "text features": "text_features/*/*.parquet",
    "pairs": "pairs/*/*",
    "neighbours": "neighbours/*/*.parquet",
    "known rows": "known/*.parquet",
}
FROZEN = {"lock_image": True, "lock_text": True, "unlocked_text_groups": 1}
"""Of a model: both trunks stand still, and what they make of images and texts is kept."""
VISION = {"timm_model_name": "test_efficientnet", "timm_pool": "avg", "timm_proj": "linear", "image_size": 32}
TEXTS = ("a red square", "a blue hexagon of 9 pixels", "number 77")


@dataclass(frozen=True)
class Flip:
    """One bit of one file, relative to the pipeline's folder."""

    kind: str
    name: str
    place: int
    bit: int


@dataclass
class Tally:
    """What became of the flips in files of one kind."""

    flips: int = 0
    found: int = 0
    unneeded: int = 0
    answers: Counter[str] = field(default_factory=Counter)
    lost: list[str] = field(default_factory=list)
    """Flips that nothing found, or that were answered wrong."""


def draw(folder: Path) -> list[dict[str, str]]:
    """Pictures that all differ, and the rows that name them."""
    (folder / "pictures").mkdir(parents=True)
    rows = []
    for number in range(PICTURES + MORE):
        colour, shape = COLOURS[number % 8], list(SHAPES)[number // 8 % 5]
        radius, shade = 5 + number // 40 % 9, 255 - number // 360 * 7
        picture = Image.new("RGB", (32, 32), (shade,) * 3)
        ImageDraw.Draw(picture).regular_polygon((16, 16, radius), SHAPES[shape], rotation=number // 40, fill=colour)
        picture.save(folder / "pictures" / f"{number}.png")
        text = f"a {colour} {shape} of {radius} pixels, number {number}"
        rows.append({"id": f"p{number}", "image": f"pictures/{number}.png", "text": text, "colour": colour})
    return rows


def build(folder: Path) -> Path:
    """Four releases by two models, ready for a night with new rows; returns the file of pipelines."""
    rows = [*draw(folder), {"id": "gone", "image": "pictures/none.png", "text": "a picture that isn't there"}]
    towers = {**TOWERS, "model_cfg": {**TOWERS["model_cfg"], "vision_cfg": VISION}}
    (folder / "tiny.json").write_text(json.dumps(towers))
    file = folder / "pipelines.yaml"
    pipeline = {
        "sources": [{"kind": "jsonl", "path": "captions.jsonl"}],
        "columns": {"id": "id", "keep": {"colour": "string"}},
        "ingest": {"max_side": 32, "min_side": 8, "workers": 1},
        "model": {"architecture": "tiny.json", **FROZEN},
        "training": {"max_minutes": None, "max_steps": 8, "batch_size": 16, "threads": 1},
        "gate": {"first": "none", "max_regression": 1.0},
        "index": {"min_rows": 1_000, "min_ann_recall@10": 0.0},
        "retrain": {"min_new_fraction": 1.0, "every_nights": 1_000},
    }
    file.write_text(yaml.safe_dump({"root": "stored", "pipelines": {"drawn": pipeline}}))
    for first, last, seed in ((0, 1_100, 0), (20, 1_200, 0), (20, 1_250, 1), (40, 1_300, 1)):
        write(folder, [*rows[first:last], rows[-1]])
        night = nightly(load_pipeline(file, overrides=[f"training.seed={seed}"]))
        assert night.outcome == "released", night.reason
    write(folder, rows[40:])
    return file


def write(folder: Path, rows: Sequence[dict[str, str]]) -> None:
    """The source's rows."""
    (folder / "captions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def flips(folder: Path, count: int, seed: int, kinds: Sequence[str]) -> list[Flip]:
    """Random ones, as many of each kind of file, spread over its bytes."""
    rng = random.Random(seed)
    files = {kind: sorted(folder.glob(KINDS[kind])) for kind in kinds}
    assert all(files.values()), f"no files: {[kind for kind, some in files.items() if not some]}"
    chosen = []
    for number in range(count):
        kind = list(files)[number % len(files)]
        path = rng.choice(files[kind])
        name = path.relative_to(folder).as_posix()
        chosen.append(Flip(kind, name, rng.randrange(path.stat().st_size), rng.randrange(8)))
    return chosen


@contextmanager
def flipped(folder: Path, flip: Flip) -> Iterator[None]:
    """The bit flipped, and flipped back."""
    path = folder / flip.name
    content, times = path.read_bytes(), path.stat()
    apply(folder, flip)
    try:
        yield
    finally:
        path.write_bytes(content)
        os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


def apply(folder: Path, flip: Flip) -> None:
    """Flip the bit; the file keeps its times."""
    path = folder / flip.name
    times, content = path.stat(), bytearray(path.read_bytes())
    content[flip.place] ^= 1 << flip.bit
    path.write_bytes(content)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


def answers(release: OpenRelease) -> Any:
    """What a release says to texts, to an item and to SQL."""
    queries = [*(Query(text) for text in TEXTS), Query(like="p60")]
    hits = [
        [(hit.item_id, round(hit.score, 4), hit.texts) for hit in release.search(query, k=20).hits] for query in queries
    ]
    counted = json_rows(run_sql(release, "SELECT colour, count(*) AS n FROM items GROUP BY colour ORDER BY colour"))
    return [hits, counted]


class Heard(logging.Handler):
    """The warnings that were given."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.said: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Note one."""
        self.said.append(record.getMessage())


def read(folder: Path, expected: dict[int, Any], flip: Flip) -> str:
    """How a reader of the current release fares: its answers are right, from a release before, refused, or wrong.

    A reader that goes to a release before has to say why.
    """
    heard = Heard()
    ours = logging.getLogger("pairloom")
    ours.addHandler(heard)
    try:
        release = OpenRelease.open(folder)
        found = answers(release)
    except (DamagedError, ValueError):
        return "refused"
    finally:
        ours.removeHandler(heard)
    if found != expected[release.record.number]:
        return "wrong"
    if release.record.number == max(expected):
        return "right"
    return "from the release before" if any(flip.name in each for each in heard.said) else "wrong"


def found_by(verification: Verification, flip: Flip) -> bool:
    """Whether a finding names the file, or the folder that it is checked with."""
    return any(flip.name == each.path or flip.name.startswith(f"{each.path}/") for each in verification.findings)


def flip_all(folder: Path, chosen: Sequence[Flip]) -> dict[str, Tally]:
    """Part one."""
    numbers = sorted(int(path.stem) for path in folder.glob("releases/*.json"))
    expected = {number: answers(OpenRelease.open(folder, number)) for number in numbers}
    whole = verify(folder, releases=7)
    assert whole.whole, whole.summary
    tallies: dict[str, Tally] = defaultdict(Tally)
    for number, flip in enumerate(chosen):
        tally = tallies[flip.kind]
        if number % 2:
            (folder / "checked.json").unlink(missing_ok=True)
        with flipped(folder, flip):
            how = read(folder, expected, flip)
            found = found_by(verify(folder, releases=7), flip)
        unneeded = not found and needed_by_none(folder, flip)
        tally.flips += 1
        tally.found += found
        tally.unneeded += unneeded
        tally.answers[how] += 1
        if how == "wrong" or not (found or unneeded):
            tally.lost.append(f"{flip} {how}")
            sys.stderr.write(f"{flip}: {how}, {'found' if found else 'not found'}\n")
        if number % 50 == 49:
            sys.stderr.write(f"{number + 1} flips\n")
    assert verify(folder, releases=7).whole, "a flip was not undone"
    return tallies


def needed_by_none(folder: Path, flip: Flip) -> bool:
    """Whether `verify` counts the file among those that nothing kept names: without it, one fewer."""
    path = folder / flip.name
    before, aside = verify(folder, releases=7), path.with_name(f".{path.name}")
    path.rename(aside)
    try:
        after = verify(folder, releases=7)
        return after.whole and after.files == before.files
    finally:
        aside.rename(path)


@dataclass(frozen=True)
class Served:
    """What a release holds, by item: its texts and vectors."""

    texts: dict[str, list[str]]
    vectors: dict[str, np.ndarray]

    @classmethod
    def of(cls, release: OpenRelease) -> "Served":
        rows = release.dataset.to_table(columns=["item_id", "texts", "image_vector", "text_vector"]).to_pylist()
        return cls(
            {row["item_id"]: row["texts"] for row in rows},
            {row["item_id"]: np.array([row["image_vector"], row["text_vector"]]) for row in rows},
        )

    def unlike(self, other: "Served", *, vectors: bool) -> str:
        """What differs; empty where nothing does."""
        if self.texts != other.texts:
            return "other items or texts"
        if vectors and any(np.abs(own - other.vectors[key]).max() > 1e-5 for key, own in self.vectors.items()):
            return "other vectors"
        return ""


def run_nights(file: Path, chosen: Sequence[Flip], scratch: Path) -> dict[str, Counter[str]]:
    """Part two."""
    stored = file.parent / "stored"

    def night(flip: Flip | None, *, trains: bool) -> tuple[str, Served | None]:
        root = scratch / "root"
        shutil.rmtree(root, ignore_errors=True)
        shutil.copytree(stored, root)
        folder = root / "drawn"
        if flip:
            apply(folder, flip)
        try:
            ended = nightly(load_pipeline(file, root=root, overrides=[f"training.seed={2 if trains else 1}"]))
        except (DamagedError, ValueError, RuntimeError, OSError) as error:
            return f"failed: {type(error).__name__}", None
        if ended.outcome != "released":
            return ended.outcome, None
        try:
            release = OpenRelease.open(folder)
            answers(release)
        except (DamagedError, ValueError) as error:
            return f"RELEASED WHAT CAN'T BE SEARCHED: {error}", None
        if release.record.number != ended.release:
            return "RELEASED WHAT READERS PASS OVER", None
        return "released", Served.of(release)

    expected = {trains: night(None, trains=trains)[1] for trains in (False, True) if chosen}
    ends: dict[str, Counter[str]] = defaultdict(Counter)
    for number, flip in enumerate(chosen):
        trains = number % 5 == 4
        end, served = night(flip, trains=trains)
        whole = expected[trains]
        assert whole is not None
        if served and (unlike := served.unlike(whole, vectors=not trains)):
            end = f"CARRIED DAMAGE: {unlike}"
        ends[flip.kind][end] += 1
        sys.stderr.write(f"night {number + 1}: {flip}{', trains' if trains else ''}: {end}\n")
    return ends


def read_through(rows: int, folder: Path) -> str:
    """What a reader pays for the contents of a table of `rows` items, the first time and when it is known."""
    dimension, thumbnail = 64, 2_500
    size, name = rows * (2 * 4 * dimension + thumbnail), "data"
    with (folder / name).open("wb") as stream:
        for start in range(0, size, 1 << 24):
            stream.write(os.urandom(min(1 << 24, size - start)))
    files = {name: FileDigest.of(folder / name)}
    seconds = []
    for _ in range(2):
        began, cpu = time.perf_counter(), time.process_time()
        assert CheckedFiles(folder).wrong(files) == []
        seconds.append((time.perf_counter() - began, time.process_time() - cpu))
    (wall, cpu), (again, cpu_again) = seconds
    return (
        f"{rows:,} rows, {size / 1e9:.2f} GB: {wall:.2f} s, of them CPU {cpu:.2f}; known to be whole: "
        f"{again * 1e3:.1f} ms, CPU {cpu_again * 1e3:.1f}\n"
    )


def report_flips(tallies: dict[str, Tally]) -> None:
    """Part one as a table."""
    hows = ("right", "from the release before", "refused", "wrong")
    say = sys.stdout.write
    say(f"| file | flips | found by verify | needed by nothing | {' | '.join(f'reader: {how}' for how in hows)} |\n")
    say(f"| --- {'| --- ' * (3 + len(hows))}|\n")
    rows = {
        kind: [tally.flips, tally.found, tally.unneeded, *(tally.answers[how] for how in hows)]
        for kind, tally in tallies.items()
    }
    for kind, counts in [*rows.items(), ("**all**", [sum(column) for column in zip(*rows.values(), strict=True)])]:
        say(f"| {kind} | {' | '.join(str(count) for count in counts)} |\n")
    sys.stdout.flush()


def report_nights(ends: dict[str, Counter[str]]) -> None:
    """Part two as a table."""
    sys.stdout.write("\n| file | nights | how they ended |\n| --- | --- | --- |\n")
    for kind, nights in ends.items():
        how = ", ".join(f"{count} {end}" for end, count in nights.most_common())
        sys.stdout.write(f"| {kind} | {nights.total()} | {how} |\n")


def main() -> int:
    """Prints what was found and answered; the exit status is 1 where a flip was lost or answered wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--flips", type=int, default=1_000)
    parser.add_argument("--nights", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kinds", nargs="+", choices=list(KINDS), default=list(KINDS), metavar="KIND")
    parser.add_argument("--read-through", type=int, nargs="*", metavar="ROWS", help="Only time readers of such tables.")
    options = parser.parse_args()
    for rows in options.read_through or ():
        with tempfile.TemporaryDirectory() as name:
            sys.stdout.write(read_through(rows, Path(name)))
    if options.read_through:
        return 0
    logging.getLogger("pairloom").propagate = False  # every flip is warned of
    cpu, load = time.process_time(), os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as name:
        file = build(Path(name, "collection"))
        folder = load_pipeline(file).folder
        tallies = flip_all(folder, flips(folder, options.flips, options.seed, options.kinds))
        report_flips(tallies)
        (folder / "checked.json").unlink(missing_ok=True)
        ends = run_nights(file, flips(folder, options.nights, options.seed + 1, options.kinds), Path(name))
    report_nights(ends)
    lost = [each for tally in tallies.values() for each in tally.lost]
    bad = [end for nights in ends.values() for end in nights if end.startswith(("RELEASED", "CARRIED"))]
    sys.stdout.write(f"\n{time.process_time() - cpu:.0f} s of CPU; load at the start {load:.1f}\n")
    return 1 if lost or bad else 0


if __name__ == "__main__":
    sys.exit(main())
