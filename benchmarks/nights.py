"""What a night over one per cent of new rows costs beside the first one, where the model stands; and its peak memory.

    python -m benchmarks.nights cost --rows 100000
    python -m benchmarks.nights memory --rows 100000

A source of Parquet files with drawn pictures of 32 x 32 pixels inside, each another one, with texts and prices of their
own. `cost`: a first night over so many rows, whose training is two steps, then one with 1 % more: CPU seconds, user and
system, of each stage with its child processes. The first night's training isn't counted, nor is start-up: libraries are
imported before. `memory`: a night with 1 % more than so many rows, and than four times as many, after a release whose
model is a network without training; the peak of what the night's processes hold together in memory (resident set,
looked at ten times a second), in all and by stage. Each night is a process of its own with one thread.
"""

import argparse
import contextlib
import importlib
import io
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import yaml
from PIL import Image

STAGE = "stage.txt"
SIDE, FILE_ROWS, MAX_SHARE, MAX_GROWTH = 32, 10_000, 0.05, 1.15
LIBRARIES = ("lance", "pandas", "scipy.stats", "pairloom.models.encoder", "pairloom.tasks.evaluation.contest")
COLOURS = ("red", "green", "blue", "grey", "pink", "brown", "white", "black")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["cost", "memory"])
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--folder", type=Path, default=None, help="where the collection is made, and kept")
    parser.add_argument("--run", choices=["night", "release"], help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.run:
        file = asked.folder / "pipelines.yaml"
        sys.stdout.write(json.dumps(stages(file) if asked.run == "night" else release_untrained(file)))
        return
    with tempfile.TemporaryDirectory() as made:
        folder = asked.folder or Path(made)
        if asked.what == "cost":
            lines = cost_lines(*both_nights(folder / "cost", asked.rows, "night"))
        else:
            peaks = [both_nights(folder / str(rows), rows, "release") for rows in (asked.rows, 4 * asked.rows)]
            lines = memory_lines(asked.rows, *(second for _, second in peaks))
        sys.stdout.writelines(f"{line}\n" for line in lines)


def both_nights(folder: Path, rows: int, first: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """What a first night (or only a release) over `rows` takes, and a night with 1 % more."""
    source = folder / "source"
    source.mkdir(parents=True, exist_ok=True)
    for start in range(0, rows, FILE_ROWS):
        write_rows(source / f"rows-{start:08d}.parquet", start, min(start + FILE_ROWS, rows))
    write_pipelines(folder)
    before = measured(folder, first)
    write_rows(source / f"rows-{rows:08d}.parquet", rows, rows + rows // 100)
    return before, measured(folder, "night")


def write_rows(path: Path, start: int, end: int) -> None:
    """Rows of a source, from the number `start` up to `end`."""
    columns: dict[str, list[Any]] = {name: [] for name in ("id", "image", "text", "price")}
    for number in range(start, end):
        colour = COLOURS[number % len(COLOURS)]
        columns["id"].append(f"item {number}")
        columns["image"].append(picture(number))
        columns["text"].append(f"{colour} drawing of {words(number)}")
        columns["price"].append(number % 997 / 10)
    pq.write_table(pa.table(columns), path)


def words(number: int) -> str:
    """Three words of a small vocabulary, for a number; few numbers share them."""
    return " ".join(f"thing{number // 200**place % 200}" for place in range(3))


def picture(number: int) -> bytes:
    """A small PNG that differs from all others."""
    random = np.random.default_rng(number)
    pixels = np.repeat(np.repeat(random.integers(0, 255, (4, 4, 3), np.uint8), 8, axis=0), 8, axis=1)
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "PNG")
    return out.getvalue()


def write_pipelines(folder: Path) -> None:
    pipeline = {
        "sources": [{"kind": "parquet", "path": "source/*.parquet"}],
        "columns": {"id": "id", "image": "image", "texts": ["text"], "keep": {"price": "float64"}},
        "ingest": {"max_side": SIDE, "workers": 1, "val_fraction": 0.02},
        "model": {"architecture": "tiny-32"},
        "training": {"max_minutes": None, "max_steps": 2, "batch_size": 64, "threads": 1},
        "gate": {"first": "none"},
        "retrain": {"min_new_fraction": 1, "every_nights": 1000},
    }
    content = yaml.safe_dump({"root": "stored", "pipelines": {"nights": pipeline}})
    (folder / "pipelines.yaml").write_text(content, encoding="utf-8")


def measured(folder: Path, what: str) -> dict[str, Any]:
    """CPU seconds by stage of one night, in a process of its own, and its peak memory in MiB."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "LANCE_CPU_THREADS": "1"}
    command = [sys.executable, "-m", "benchmarks.nights", "cost", "--run", what, "--folder", str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment, text=True) as process:
        peak = Peak(process.pid, folder / STAGE)
        assert process.stdout is not None
        said = process.stdout.read()
        peak.end()
    if process.returncode:
        raise SystemExit(process.returncode)
    peaks = {"peak": max(peak.mebibytes.values()), "peaks": peak.mebibytes}
    return {**json.loads(said.splitlines()[-1]), **peaks, "load": os.getloadavg()[0]}


class Peak:
    """The most memory that a process and its descendants held together, by stage."""

    def __init__(self, process: int, stage: Path) -> None:
        """`stage` is the file in which the process says where it is."""
        self.mebibytes: dict[str, float] = {}
        self._process, self._stage, self._ended = process, stage, threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()

    def end(self) -> None:
        self._ended.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._ended.wait(0.1):
            parents, pages = {}, {}
            for path in Path("/proc").glob("[0-9]*"):
                with contextlib.suppress(OSError):
                    parents[int(path.name)] = int((path / "stat").read_text().rpartition(")")[2].split()[1])
                    pages[int(path.name)] = int((path / "statm").read_text().split()[1])
            own = {self._process}
            while more := {each for each, parent in parents.items() if parent in own} - own:
                own |= more
            held = sum(pages.get(each, 0) for each in own) * os.sysconf("SC_PAGE_SIZE") / 2**20
            stage = self._stage.read_text() if self._stage.exists() else "start"
            self.mebibytes[stage] = max(self.mebibytes.get(stage, 0), held)


def stages(file: Path) -> dict[str, Any]:
    """Run one night; what it cost by stage, without what is imported before."""
    for name in LIBRARIES:
        importlib.import_module(name)
    import torch

    from pairloom.flows.config import load_pipeline
    from pairloom.flows.nightly import nightly
    from pairloom.tasks.stage import listen

    torch.set_num_threads(1)
    cost: dict[str, float] = {}
    began: dict[str, float] = {}
    said = file.parent / STAGE

    def hear(stage: str, done: float, total: float | None, note: str) -> None:
        if (done, total, note) == (0, None, ""):
            began[stage] = cpu_seconds()
            said.write_text(stage)
        elif note.startswith("done ·"):
            cost[stage] = cost.get(stage, 0) + cpu_seconds() - began[stage]
            said.write_text("between stages")

    listen(hear)
    start, started = cpu_seconds(), time.monotonic()
    ended = nightly(load_pipeline(file))
    assert ended.outcome == "released", ended.reason
    return {"stages": cost, "cpu": cpu_seconds() - start, "wall": time.monotonic() - started, "rows": ended.rows}


def release_untrained(file: Path) -> dict[str, Any]:
    """Release the rows with a network that has learned nothing."""
    from pairloom.flows import stages
    from pairloom.flows.config import load_pipeline
    from pairloom.models.towers.creation import create
    from pairloom.storage.modelstore import ModelStore
    from pairloom.storage.runs import Run
    from pairloom.tasks.decide import decide, snapshot_ref, verdict_name
    from pairloom.tasks.refs import Verdict

    pipeline = load_pipeline(file)
    stages.ingest(pipeline)
    plan = decide(pipeline, snapshot_ref(pipeline))
    built = pipeline.folder / "built"
    create(pipeline.model, [f"{colour} drawing of {words(0)}" for colour in COLOURS], seed=0).save(built)
    model_id = ModelStore(pipeline.folder).adopt(built)
    (pipeline.folder / "models" / model_id / "README.md").write_text("untrained\n", encoding="utf-8")
    passed = Verdict(passed=True, model_id=model_id, metrics={}, champion_metrics={}, reasons=(), comparisons=())
    Run(pipeline.folder, plan.run_id).write(verdict_name(pipeline), passed)
    return {"release": stages.publish(pipeline).number}


def cpu_seconds() -> float:
    """User and system time of this process and of its children that have ended."""
    spent = os.times()
    return spent.user + spent.system + spent.children_user + spent.children_system


def cost_lines(first: dict[str, Any], second: dict[str, Any]) -> Iterator[str]:
    yield "| stage | first night, CPU s | with 1 % new | share |\n| --- | --- | --- | --- |"
    # Some stages are of the second night alone.
    for name in {**first["stages"], **second["stages"]}:
        if name != "train":
            cost, again = (night["stages"].get(name, 0.0) for night in (first, second))
            yield f"| {name} | {cost:.2f} | {again:.2f} | {again / cost if cost else 0:.1%} |"
    whole = first["cpu"] - first["stages"]["train"]
    share = second["cpu"] / whole
    yield f"| all but training | {whole:.2f} | {second['cpu']:.2f} | {share:.1%} |"
    yield f"\nwanted: {MAX_SHARE:.0%}; load {first['load']:.1f} and {second['load']:.1f}"


def memory_lines(rows: int, few: dict[str, Any], many: dict[str, Any]) -> Iterator[str]:
    yield f"| | {rows:,} rows | {4 * rows:,} rows | growth | wanted |\n| --- | --- | --- | --- | --- |"
    for name, unit in (("peak", "MiB"), ("cpu", "CPU s")):
        wanted = f"{MAX_GROWTH} x" if name == "peak" else ""
        yield f"| {unit} | {few[name]:,.1f} | {many[name]:,.1f} | {many[name] / few[name]:.2f} x | {wanted} |"
    for name, held in few["peaks"].items():
        yield f"| {name}, MiB | {held:,.1f} | {many['peaks'].get(name, 0):,.1f} | | |"
    for name, cost in few["stages"].items():
        yield f"| {name}, CPU s | {cost:.2f} | {many['stages'][name]:.2f} | | |"
    yield f"\nload {few['load']:.1f} and {many['load']:.1f}"


if __name__ == "__main__":
    main()
