"""Thirty nights with random faults: what the disk holds after each, with and without garbage collection.

    python -m benchmarks.thirty_nights --seeds 3

A small collection of drawn pictures is edited every day: of its 60 rows some change, the oldest go, others come. Each
night is a real one (`tiny-32`, six steps where it trains) in a child process. By seeded chance it is killed by SIGKILL
at any moment of it, and run again or not; its challenger is held; a person rolls back; retention is lowered; a record
is damaged, and some nights later put back. After every night another process opens each release that is to be kept,
asks it for a text, reads every file that it names against its digest, and the items of its snapshot; and nothing that a
damaged record named may be missing. `retention.grace_hours` is 0, so that thirty nights may pass in minutes.

The same days are lived through a second time with retention and grace so large that nothing is ever collected.
"""

import argparse
import importlib
import json
import multiprocessing
import os
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw

from pairloom.flows.config import load_pipeline
from pairloom.flows.nightly import nightly
from pairloom.tasks.pipeline import Pipeline

# Learning is loaded once, before children are forked; Lance, which can't be forked, in children alone.
LOADED = ("pairloom.models.encoder", "pairloom.tasks.evaluation.contest", "pairloom.tasks.training.challenger")
FORK = multiprocessing.get_context("fork")
ITEMS, NIGHTS = 60, 30
COLOURS = ("red", "green", "blue", "orange", "purple", "black")
SHAPES = {"square": 4, "triangle": 3, "pentagon": 5, "hexagon": 6, "circle": 60}
EVERYTHING = ("retention.releases=1000", "retention.grace_hours=100000")


@dataclass
class Days:
    """The collection, and what happens to it and to what is stored."""

    folder: Path
    chance: random.Random
    collects: bool
    rows: dict[str, str] = field(default_factory=dict)
    """Text by id, oldest first."""
    drawn: int = 0
    seed: int = 0
    """Of the training: another one is another training configuration."""
    happened: Counter[str] = field(default_factory=Counter)
    lost: dict[int, bytes] = field(default_factory=dict)
    """Damaged release records as they were."""

    def edit(self) -> None:
        """One day: the oldest rows go, some change, others come."""
        for gone in list(self.rows)[: self.chance.randrange(4, 12) if len(self.rows) == ITEMS else 0]:
            del self.rows[gone]
        for changed in self.chance.sample(sorted(self.rows), min(len(self.rows), self.chance.randrange(3))):
            self.rows[changed] = f"{self.rows[changed]} again"
        while len(self.rows) < ITEMS:
            self._draw()
        lines = [
            json.dumps({"id": each, "image": f"{each}.png", "text": text}) + "\n" for each, text in self.rows.items()
        ]
        (self.folder / "captions.jsonl").write_text("".join(lines), encoding="utf-8")

    def pipeline(self, *overrides: str) -> Pipeline:
        """As it is tonight."""
        kept = ("retention.grace_hours=0",) if self.collects else EVERYTHING
        return load_pipeline(
            self.folder / "pipelines.yaml", overrides=[*kept, f"training.seed={self.seed}", *overrides]
        )

    def night(self, seconds: float) -> Pipeline:
        """A night that takes about so many seconds, with what chance brings; returns the pipeline of its last run."""
        overrides = [f"retention.releases={self.chance.choice([3, 3, 2])}"] if self.collects else []
        if self.chance.random() < 0.3:
            self.happened["retrained"] += 1
            self.seed += 1
            if self.chance.random() < 0.4:
                self.happened["held"] += 1
                overrides.append("gate.min.text_to_image_recall@1=1.0")
        pipeline = self.pipeline(*overrides)
        if self.chance.random() < 0.35:
            if in_child(run_night, pipeline, kill_after=self.chance.uniform(0, seconds)) is None:
                self.happened["killed"] += 1
            if self.chance.random() < 0.3:
                return pipeline
        in_child(run_night, pipeline)
        return pipeline

    def interfere(self, pipeline: Pipeline) -> None:
        """What people and disks do between nights."""
        releases = pipeline.folder / "releases"
        numbers = in_child(kept_numbers, pipeline)
        if self.chance.random() < 0.15:
            self.happened["rolled back"] += 1
            in_child(rolled_back, pipeline, self.chance.choice(numbers))
        elif self.chance.random() < 0.15 and len(numbers) > 1:
            self.happened["record damaged"] += 1
            number = self.chance.choice(numbers)
            path = releases / f"{number:06d}.json"
            self.lost[number] = path.read_bytes()
            path.write_bytes(self.lost[number][:-40])
        elif self.lost and self.chance.random() < 0.4:
            number = self.chance.choice(sorted(self.lost))
            if (path := releases / f"{number:06d}.json").exists():
                self.happened["record put back"] += 1
                path.write_bytes(self.lost[number])
            del self.lost[number]

    def _draw(self) -> None:
        self.drawn += 1
        colour, (shape, corners) = self.chance.choice(COLOURS), self.chance.choice(sorted(SHAPES.items()))
        radius = self.chance.randrange(15, 45)
        picture = Image.new("RGB", (96, 96), "white")
        ImageDraw.Draw(picture).regular_polygon((48, 48, radius), corners, fill=colour)
        picture.save(self.folder / f"i{self.drawn}.png")
        self.rows[f"i{self.drawn}"] = f"a {colour} {shape} of {radius}"


def run_night(pipeline: Pipeline) -> str:
    """How it ended."""
    return nightly(pipeline).outcome


def kept_numbers(pipeline: Pipeline) -> list[int]:
    """The releases that are to be kept."""
    from pairloom.storage.releases import kept_releases, release_log

    return [each.number for each in kept_releases(release_log(pipeline.folder), pipeline.retention.releases)]


def rolled_back(pipeline: Pipeline, number: int) -> int:
    """A person's rollback."""
    from pairloom.storage.releases import roll_back

    return roll_back(pipeline.folder, number).number


def checked(pipeline: Pipeline, lost: dict[int, bytes]) -> dict[str, int]:
    """Open all that is kept; how many releases answered and files were read. AssertionError for what is amiss."""
    from pairloom.search.release import OpenRelease
    from pairloom.storage.corpus import Corpus
    from pairloom.storage.files import FileDigest, damage
    from pairloom.storage.releases import kept_releases, release_log

    log, corpus, files = release_log(pipeline.folder), Corpus(pipeline.folder), 0
    kept = kept_releases(log, pipeline.retention.releases)
    for release in kept:
        opened = OpenRelease(pipeline.folder, release)
        assert len(opened.search("a red circle", k=5).hits) == 5
        assert opened.dataset.count_rows() == release.rows
        assert damage(pipeline.folder, release.files, contents=True) == []
        files += len(release.files)
    for release in kept[:2]:
        snapshot = corpus.log.read(release.snapshot)
        assert corpus.table(snapshot, ["item_id"]).num_rows == release.rows
        assert damage(pipeline.folder, snapshot.files, contents=True) == []
        files += len(snapshot.files)
    oldest = kept[: pipeline.retention.releases][-1].number
    for number, content in lost.items():
        if number > oldest:
            named = {name: FileDigest(**each) for name, each in json.loads(content)["files"].items()}
            assert damage(pipeline.folder, named) == [], f"what the damaged record {number} named is missing"
    return {"releases": len(kept), "files": files}


def in_child(function: Callable[..., Any], *arguments: Any, kill_after: float | None = None) -> Any:
    """What `function` returns in a process of its own; None where that was killed after some seconds."""
    ours, theirs = FORK.Pipe(duplex=False)

    def run() -> None:
        theirs.send(function(*arguments))

    process = FORK.Process(target=run)
    process.start()
    theirs.close()
    try:
        if kill_after is not None and not ours.poll(kill_after):
            process.kill()
            return None
        return ours.recv()
    except EOFError:
        raise RuntimeError(f"{function.__name__} failed: see above") from None
    finally:
        process.join()
        ours.close()


def live(seed: int, *, collects: bool) -> tuple[list[dict[str, int]], Counter[str], Counter[str]]:
    """Bytes by folder after each night, what happened, and what was checked."""
    sizes: list[dict[str, int]] = []
    checks: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        (folder / "pipelines.yaml").write_text(PIPELINES, encoding="utf-8")
        days = Days(folder, random.Random(seed), collects)
        days.edit()
        started = time.monotonic()
        in_child(run_night, days.pipeline())
        seconds = time.monotonic() - started
        for number in range(1, NIGHTS + 1):
            days.edit()
            pipeline = days.night(seconds)
            checks.update(in_child(checked, pipeline, days.lost))
            days.interfere(pipeline)
            sizes.append(disk(pipeline.folder))
            sys.stderr.write(f"seed {seed} night {number}: {sum(sizes[-1].values()) / 2**20:.2f} MiB\n")
        return sizes, days.happened, checks


def disk(folder: Path) -> dict[str, int]:
    """Bytes below each folder of a pipeline."""
    found = {}
    for kind in sorted(folder.iterdir()):
        found[kind.name] = sum(Path(at, name).stat().st_size for at, _, names in os.walk(kind) for name in names)
    return found


PIPELINES = """
root: stored
pipelines:
  days:
    sources: [{kind: jsonl, path: captions.jsonl}]
    columns: {id: id}
    ingest: {max_side: 64, workers: 1, max_removed: 1.0}
    model: {architecture: tiny-32}
    training: {max_minutes: null, max_steps: 6, batch_size: 16, threads: 1}
    retrain: {min_new_fraction: 1000.0, every_nights: 1000}
    gate: {first: none, max_regression: 1.0}
"""


def main() -> None:
    """Print Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    asked = parser.parse_args()
    for module in LOADED:
        importlib.import_module(module)
    shown = [5, 10, 20, 30]
    columns = ["seed", "collected", *(f"night {each}, MiB" for each in shown), "most", "releases opened", "happened"]
    tell(columns)
    tell(["---"] * len(columns))
    last: dict[bool, dict[str, int]] = {}
    for seed in range(1, asked.seeds + 1):
        for collects in (True, False):
            sizes, happened, checks = live(seed, collects=collects)
            totals = [sum(each.values()) / 2**20 for each in sizes]
            last[collects] = sizes[-1]
            figures = [*(totals[each - 1] for each in shown), max(totals)]
            said = ", ".join(f"{count} {what}" for what, count in sorted(happened.items()))
            opened = f"{checks['releases']:,}"
            tell([str(seed), "yes" if collects else "never", *(f"{each:.2f}" for each in figures), opened, said])
    sys.stdout.write("\n")
    tell(["MiB after night 30 of the last seed", "collected", "never"])
    tell(["---"] * 3)
    for kind in sorted(last[False]):
        tell([kind, *(f"{last[collects].get(kind, 0) / 2**20:.3f}" for collects in (True, False))])


def tell(cells: list[str]) -> None:
    """A row of a table."""
    sys.stdout.write(f"| {' | '.join(cells)} |\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
