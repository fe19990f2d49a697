"""Readers beside a process that publishes, rolls back and cleans up: no error, no answer of two releases, none older.

    python -m benchmarks.readers --queries 2000 --changes 100

One process runs a tiny pipeline on: nights over sources that it edits before each, some of which train another model,
and rollbacks; three releases are retained, so that every one cleans up behind itself. Beside it two processes ask: in
each, threads that share an index which another thread refreshes all the time, and one that refreshes before each
question; in the second process also one that refreshes only where an error tells it to. They ask texts, a text with a
condition, an item, and SQL with and without a search.

Whoever publishes opens each release once more, alone, and writes down what it answers to every question. Each answer
of a reader must be what the release that it names answered then, and no reader may get an older one than before. A
reader counts as told to refresh where its release was cleaned up under it and the error says so; every other error
counts as one.

Then the cost of a rollback and of a refresh, without the start of the interpreter: over a table of many rows, in
processes of their own.
"""

import argparse
import json
import logging
import multiprocessing
import os
import random
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import yaml
from PIL import Image, ImageDraw

from pairloom.flows.config import load_pipeline
from pairloom.flows.nightly import nightly
from pairloom.search.index import Index
from pairloom.search.query import Query
from pairloom.storage.files import DamagedError, digest_files
from pairloom.storage.releases import release_log, roll_back
from pairloom.storage.schema import vector_schema
from pairloom.storage.table.upkeep import TableUpkeep
from pairloom.storage.table.vectors import VectorTable, table_name

SPAWN = multiprocessing.get_context("spawn")
COLOURS = ("red", "green", "blue", "orange", "purple", "black", "grey", "pink")
SHAPES = {"square": 4, "triangle": 3, "pentagon": 5, "hexagon": 6, "circle": 60}
ITEMS, KEPT = 1_100, 40
"""Rows of the collection, and how many of them no edit takes away."""
RETAINED = 3
PAUSE = 0.5
"""Seconds between two questions of a thread, so that the publisher gets on."""

Answer = list[tuple[str, float]]
"""Ids and scores, best first; for SQL the values of its rows."""
Ask = Callable[[Index], tuple[int, Answer]]


def texts(query: Query | str, where: str | None = None) -> Ask:
    """Asks for the nearest items."""

    def ask(index: Index) -> tuple[int, Answer]:
        found = index.search(query, where=where)
        return found.release, [(hit.item_id, hit.score) for hit in found.hits]

    return ask


def sql(statement: str) -> Ask:
    """Asks for rows of a name and a number."""

    def ask(index: Index) -> tuple[int, Answer]:
        found = index.sql(statement)
        names, values = found.rows.columns
        pairs = zip(names.to_pylist(), values.to_pylist(), strict=True)
        return found.release, [(str(name), float(value)) for name, value in pairs]

    return ask


QUESTIONS: tuple[Ask, ...] = (
    *(texts(f"a {colour} {shape}") for colour, shape in zip(COLOURS, SHAPES, strict=False)),
    texts("a circle", "size > 5"),
    texts(Query(like="item-0", plus=("blue",))),
    sql("SELECT colour, sum(size)::DOUBLE AS size FROM items GROUP BY colour ORDER BY colour"),
    sql("SELECT item_id, score FROM search('a pink hexagon', k := 20)"),
)


@dataclass
class Heard:
    """What one thread was answered."""

    answers: list[tuple[int, int, Answer]] = field(default_factory=list)
    """Question, release, answer; in the order in which they came."""
    errors: list[str] = field(default_factory=list)
    told: int = 0
    """How often it was told to refresh."""


def draw_row(folder: Path, number: int, rng: random.Random) -> dict[str, Any]:
    """A row with a picture of its own."""
    colour, shape, size = rng.choice(COLOURS), rng.choice([*SHAPES]), rng.randrange(3, 9)
    picture = Image.new("RGB", (24, 24), "white")
    ImageDraw.Draw(picture).regular_polygon((12, 12, size), SHAPES[shape], rotation=rng.randrange(90), fill=colour)
    picture.save(folder / f"{number}.png")
    text = f"a {colour} {shape}"
    return {"id": f"item-{number}", "image": f"{number}.png", "text": text, "colour": colour, "size": size}


def write_pipeline(folder: Path) -> Path:
    """pipelines.yaml over `captions.jsonl` beside it."""
    pipeline = {
        "sources": [{"kind": "jsonl", "path": "captions.jsonl"}],
        "columns": {"id": "id", "keep": {"colour": "string", "size": "int64"}},
        "ingest": {"max_side": 24, "workers": 1},
        "model": {"architecture": "tiny-32"},
        "training": {"max_minutes": None, "max_steps": 3, "batch_size": 32, "threads": 1},
        "retrain": {"min_new_fraction": 1.0, "every_nights": 365},
        "gate": {"first": "none", "max_regression": 1.0},
        "index": {"min_rows": 1_000, "min_ann_recall@10": 0.5},
        "retention": {"releases": RETAINED, "grace_hours": 0},
    }
    file = folder / "pipelines.yaml"
    file.write_text(yaml.safe_dump({"root": "stored", "pipelines": {"tiny": pipeline}}), encoding="utf-8")
    return file


def publish(folder: Path, changes: int, seed: int, ended: Event) -> None:
    """Make a first release, then `changes` more; leaves what each answers, and what was done, in `truth.json`."""
    logging.disable(logging.WARNING)
    rng = random.Random(seed)
    file = write_pipeline(folder)
    rows = [draw_row(folder, number, rng) for number in range(ITEMS)]
    truth: dict[int, list[Answer]] = {}
    done = {"nights": 0, "models": 0, "rollbacks": 0}
    drawn, training = ITEMS, 0
    for change in range(changes + 1):
        kind = rng.choices(["nights", "models", "rollbacks"], [6, 1, 3])[0] if change else "nights"
        if kind == "rollbacks":
            known = [record.number for record in release_log(folder / "stored" / "tiny").newest_first()][:RETAINED]
            number = roll_back(folder / "stored" / "tiny", rng.choice(known)).number
        else:
            training += kind == "models"
            if change:
                for _ in range(3):
                    rows.pop(rng.randrange(KEPT, len(rows)))
                    rows[rng.randrange(len(rows))]["text"] = f"a {rng.choice(COLOURS)} {rng.choice([*SHAPES])}"
                    rows.append(draw_row(folder, drawn, rng))
                    drawn += 1
            (folder / "captions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
            night = nightly(load_pipeline(file, overrides=[f"training.seed={training}"]))
            assert night.outcome == "released", night.reason
            assert night.release is not None
            number = night.release
        done[kind] += change > 0
        alone = Index.open(folder / "stored" / "tiny", number)
        truth[number] = [ask(alone)[1] for ask in QUESTIONS]
    (folder / "truth.json").write_text(json.dumps({"truth": truth, "done": done}), encoding="utf-8")
    ended.set()


def listen(index: Index, heard: Heard, until: Callable[[int], bool], *, refresh: bool, seed: int) -> None:
    """Ask until it is time; `refresh` before each question, or only where told to."""
    rng = random.Random(seed)
    while not until(len(heard.answers)):
        question = rng.randrange(len(QUESTIONS))
        try:
            if refresh:
                index.refresh()
            release, answer = QUESTIONS[question](index)
            heard.answers.append((question, release, answer))
        except DamagedError as error:
            if refresh or "refresh() goes to the newest" not in str(error):
                heard.errors.append(repr(error))
            else:
                heard.told += 1
                index.refresh()
        except Exception as error:  # whatever it is, it is counted
            heard.errors.append(repr(error))
        time.sleep(PAUSE)


def read(folder: Path, queries: int, ended: Event, seed: int, *, lazy: bool) -> list[Heard]:
    """Ask with several threads until the publisher has ended, and at least `queries` times in all."""
    stored = folder / "stored" / "tiny"
    shared = Index.open(stored)
    heard = [Heard() for _ in range(4 if lazy else 3)]
    stop = threading.Event()

    def refresh() -> None:
        while not stop.is_set():
            shared.refresh()
            time.sleep(PAUSE / 10)

    def until(asked: int) -> bool:
        return ended.is_set() and asked >= queries / len(heard)

    # The shared index is one reader to each of its threads, who ask it without refreshing it themselves.
    indexes = [shared, shared, Index.open(stored), Index.open(stored)][: len(heard)]
    threads = [
        threading.Thread(target=listen, args=(index, own, until), kwargs={"refresh": place == 2, "seed": seed + place})
        for place, (index, own) in enumerate(zip(indexes, heard, strict=True))
    ]
    refresher = threading.Thread(target=refresh)
    for thread in (refresher, *threads):
        thread.start()
    for thread in threads:
        thread.join()
    stop.set()
    refresher.join()
    return heard


def read_elsewhere(folder: Path, queries: int, ended: Event, seed: int) -> None:
    """The second process of readers; leaves what it heard in `heard.json`."""
    heard = [vars(each) for each in read(folder, queries, ended, seed, lazy=True)]
    (folder / "heard.json").write_text(json.dumps(heard), encoding="utf-8")


def wrong_answers(heard: list[Heard], truth: dict[str, list[Answer]]) -> tuple[int, int]:
    """How many answers are not those of the release that they name, and how many are of an older one than before."""
    mixed = older = 0
    for each in heard:
        newest = 0
        for question, release, answer in each.answers:
            expected = truth[str(release)][question]
            names, values = ([pair[place] for pair in answer] for place in (0, 1))
            same = names == [pair[0] for pair in expected]
            # The last digit of a score may be rounded either way.
            mixed += not (same and np.allclose(values, [pair[1] for pair in expected], rtol=0, atol=2e-6))
            older += release < newest
            newest = max(newest, release)
    return mixed, older


def play(folder: Path, queries: int, changes: int, seed: int) -> str:
    """Publisher and readers beside one another; returns a row of the table."""
    ended = SPAWN.Event()
    publisher = SPAWN.Process(target=publish, args=(folder, changes, seed, ended))
    publisher.start()
    while not (folder / "stored" / "tiny" / "releases" / "000001.json").exists():
        assert publisher.is_alive(), "the first night failed"
        time.sleep(0.2)
    elsewhere = SPAWN.Process(target=read_elsewhere, args=(folder, queries // 2, ended, seed + 10))
    elsewhere.start()
    heard = read(folder, queries // 2, ended, seed, lazy=False)
    for process in (publisher, elsewhere):
        process.join()
        assert process.exitcode == 0
    heard += [Heard(**each) for each in json.loads((folder / "heard.json").read_text("utf-8"))]
    found = json.loads((folder / "truth.json").read_text("utf-8"))
    mixed, older = wrong_answers(heard, found["truth"])
    errors = [error for each in heard for error in each.errors]
    sys.stderr.write("".join(f"{error}\n" for error in errors[:5]))
    whole = {record.number for record in release_log(folder / "stored" / "tiny").newest_first()}
    gone = len({*map(int, found["truth"])} - whole)
    cells = (
        sum(len(each.answers) for each in heard),
        len({release for each in heard for _, release, _ in each.answers}),
        found["done"]["nights"] + found["done"]["models"],
        found["done"]["models"],
        found["done"]["rollbacks"],
        gone,
        len(errors),
        mixed,
        older,
        sum(each.told for each in heard),
    )
    return f"| {' | '.join(f'{cell:,}' for cell in cells)} |"


COST = """
import json, sys, time, resource
from pathlib import Path
folder, number = Path(sys.argv[1]), int(sys.argv[2])
if number:
    from pairloom.storage.releases import roll_back
    work = lambda: roll_back(folder, number)
else:
    from pairloom.search.index import Index
    work = Index.open(folder).refresh
started, used = time.perf_counter(), time.process_time()
work()
first = time.perf_counter() - started, time.process_time() - used
started, used = time.perf_counter(), time.process_time()
for _ in range(20):
    work()
print(json.dumps([first, [(time.perf_counter() - started) / 20, (time.process_time() - used) / 20]]))
"""
"""What a rollback (or a refresh that finds nothing) takes in a fresh process, and once its libraries are imported."""


def release_many(source: Path, folder: Path, rows: int) -> None:
    """A release of `rows` rows with random vectors, in many data files, by the model of a pipeline that has one."""
    record = release_log(source).current()
    assert record is not None
    (folder / "models").mkdir(parents=True)
    (folder / "models" / record.model_id).symlink_to(source / "models" / record.model_id)
    table = VectorTable.create_or_open(folder, record.model_id, dimension=record.dimension, keep={})
    random_ = np.random.default_rng(0)
    schema = vector_schema(record.dimension, {})
    for start in range(0, rows, 2_000):
        count = min(2_000, rows - start)
        vector_ND = random_.normal(size=(count, record.dimension)).astype(np.float32)
        vector_ND /= np.linalg.norm(vector_ND, axis=1, keepdims=True)
        texts_, ids = [["a text"]] * count, [f"item-{start + place}" for place in range(count)]
        columns = {"item_id": ids, "image_vector": list(vector_ND), "text_vector": list(vector_ND), "texts": texts_}
        rest: dict[str, object] = {
            "group": None,
            "split": "train",
            "path": "a.png",
            "width": 9,
            "height": 9,
            "source": "s",
        }
        rest |= {"content_digest": "d", "thumbnail": random_.bytes(800)}
        columns |= {name: [value] * count for name, value in rest.items()}
        table.upsert(pa.table(columns, schema=schema))
    model = (path for path in (folder / "models" / record.model_id).rglob("*") if path.is_file())
    files = digest_files(folder, iter([*table.files(), *model]), {})
    update = {"files": files, "table": table_name(record.model_id), "table_version": table.version, "keep": {}}
    TableUpkeep(table.path).tag(1, table.version)
    release_log(folder).publish(record.model_copy(update={**update, "number": 1, "rows": rows, "index": None}))


def costs(folder: Path) -> str:
    """Rows of the table: first and later seconds of a rollback and of a refresh, and what a rollback wrote."""

    def state() -> dict[Path, tuple[int, int]]:
        return {path: (path.stat().st_mtime_ns, path.stat().st_size) for path in folder.rglob("*") if path.is_file()}

    lines = []
    for name, number in (("rollback", 1), ("refresh with nothing new", 0)):
        before = state()
        done = subprocess.run(
            [sys.executable, "-c", COST, str(folder), str(number)], capture_output=True, text=True, check=True
        )
        (first, first_cpu), (later, later_cpu) = json.loads(done.stdout)
        after = state()
        fresh = [path for path, seen in after.items() if before.get(path) != seen]
        wrote = sum(after[path][1] for path in fresh) // 21
        kinds = ", ".join(sorted({path.parent.name for path in fresh})) or "nothing"
        cells = (f"{first:.3f}", f"{first_cpu:.3f}", f"{later:.4f}", f"{later_cpu:.4f}", f"{wrote:,}", kinds)
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--queries", type=int, default=2_000)
    parser.add_argument("--changes", type=int, default=100)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    load, started = os.getloadavg()[0], time.monotonic()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        sys.stdout.write(
            "| answers | releases answered from | nights | of them with another model | rollbacks "
            "| releases cleaned up | errors | mixed answers | older answers | told to refresh |\n"
        )
        sys.stdout.write(play(folder, asked.queries, asked.changes, asked.seed) + "\n")
        release_many(folder / "stored" / "tiny", folder / "many", asked.rows)
        sys.stdout.write("| | first s | CPU s | later s | CPU s | bytes written | where |\n")
        sys.stdout.write(costs(folder / "many") + "\n")
    sys.stdout.write(f"{time.monotonic() - started:,.0f} s, {os.cpu_count()} cores, load {load:.1f} at the start\n")


if __name__ == "__main__":
    main()
