"""Commands interrupted hundreds of times end at once, leave nothing running, and end as undisturbed ones.

    python -m benchmarks.interrupts ingest mine train evaluate embed publish ranks serve demo

Each part runs its command in a child process, sends it SIGINT at a seeded random moment, to the process alone or to its
whole group as a terminal does, and starts it again, over what the interrupt left behind: 60 times for `train`, 20 for
the others. Then it is run to its end and compared with an undisturbed run: what stages hand on (ids of snapshot, pairs
and model, metrics), and digests of the vectors in the embeddings and in the table. Items are the emoji of one artist,
the model is `tiny-32`, in one thread; `ranks` is the training in two processes, `serve` has a night under way in
every third case, and `demo` is the real one with a training of 150 steps.

Every fourth command is started anew, so that interrupts come while modules are loaded, too. The others are forked from
a process that has loaded them, which saves most of the time; but `serve` is always started anew.

Moments of a stage are anywhere in the time that it takes undisturbed, one half of them in its last 40 per cent, where
it has loaded what it needs. For trainings one half comes up to 0.4 s after a new checkpoint, so that they get on. A
command that ends before its moment is not counted, and starts again from the state before.

For every interrupt: the seconds till the process has ended, status 130, one line on standard error that says how to go
on, no traceback, nothing on standard output, no process left that descends from it or carries its mark.
"""

import argparse
import contextlib
import hashlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import lancedb
import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import torch
import yaml

from benchmarks.bundle import DATA
from benchmarks.kills import FORK, wait_for
from pairloom.flows import start

# What forked commands need is loaded here.
from pairloom.flows.show import report  # noqa: F401
from pairloom.tasks.embedding import parts as _parts  # noqa: F401
from pairloom.tasks.evaluation import contest  # noqa: F401
from pairloom.tasks.mining import tonight  # noqa: F401
from pairloom.tasks.training import challenger  # noqa: F401

HERE = Path(__file__).parents[1]
# What a shell starts with `&` ignores interrupts, and so do all that it starts.
PROGRAM = (
    "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler); "
    "from pairloom.flows.start import main; sys.argv[0] = 'pairloom'; main()"
)
MARK = "PAIRLOOM_INTERRUPTS"
STAGES = ("ingest", "mine", "train", "evaluate", "embed", "publish")
PARTS = (*STAGES, "ranks", "serve", "demo")
PIPELINE: dict[str, Any] = {
    "sources": [
        {
            "kind": "jsonl",
            "path": str(DATA / "emoji" / "captions.jsonl"),
            "base": str(DATA),
            "where": "skin_tone = 'none' and source = 'twemoji'",
        }
    ],
    "columns": {"id": "image_id", "texts": ["texts"], "group": "concept_id", "split": "split"},
    "ingest": {"max_side": 64, "part_rows": 100},
    "model": {"architecture": "tiny-32"},
    "training": {"max_minutes": None, "max_steps": 1500, "batch_size": 32, "threads": 1, "checkpoint_seconds": 0.1},
}


class Forked:
    """A forked child, with what is used of `subprocess.Popen`."""

    def __init__(self, target: Callable[..., None], *arguments: Any) -> None:
        sys.stdout.flush()
        sys.stderr.flush()
        self._process = FORK.Process(target=target, args=arguments)
        self._process.start()
        self.pid = self._process.pid or 0

    def poll(self) -> int | None:
        return self._process.exitcode

    def kill(self) -> None:
        self._process.kill()

    def wait(self, timeout: float | None = None) -> int:
        self._process.join(timeout)
        if self._process.exitcode is None:
            raise subprocess.TimeoutExpired("a forked command", timeout or 0)
        return self._process.exitcode


def run(arguments: tuple[str, ...], environment: Mapping[str, str], streams: tuple[int, int], home: Path) -> None:
    """What a forked child does: the command line, as the console script calls it."""
    os.setpgid(0, 0)
    os.chdir(home)
    for number, stream in enumerate(streams, 1):
        os.dup2(stream, number)
    os.environ |= environment
    sys.argv = ["pairloom", *arguments]
    signal.signal(signal.SIGINT, signal.default_int_handler)
    start.main()


class Command:
    """A command of the command line as a child process, in a process group of its own."""

    def __init__(
        self,
        log: Path,
        *arguments: str,
        forked: bool = True,
        environment: Mapping[str, str] | None = None,
        home: Path = HERE,
    ) -> None:
        self.log, self.mark, self.began = log, str(time.monotonic_ns()), time.monotonic()
        self.process: subprocess.Popen[bytes] | Forked
        environment = {MARK: self.mark, "PYTHONPATH": str(HERE), **(environment or {})}
        with log.open("wb") as stderr, log.with_suffix(".out").open("wb") as stdout:
            if forked:
                self.process = Forked(run, arguments, environment, (stdout.fileno(), stderr.fileno()), home)
            else:
                self.process = subprocess.Popen(
                    [sys.executable, "-c", PROGRAM, *arguments],
                    cwd=home,
                    env=os.environ | environment,
                    stdout=stdout,
                    stderr=stderr,
                    process_group=0,
                )

    @property
    def runs(self) -> bool:
        return self.process.poll() is None

    @property
    def said(self) -> str:
        return self.log.read_text(errors="replace")

    def document(self) -> Any:
        """What it prints, once it has ended well."""
        if self.process.wait() not in (0, 3):
            raise RuntimeError(f"{self.log.name} failed: {self.said}")
        return json.loads(self.log.with_suffix(".out").read_bytes())

    def family(self) -> list[psutil.Process]:
        with contextlib.suppress(psutil.Error):
            found: list[psutil.Process] = psutil.Process(self.process.pid).children(recursive=True)
            return found
        return []

    def marked(self) -> list[psutil.Process]:
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if process.environ().get(MARK) == self.mark:
                    found.append(process)
        return found


@dataclass
class Tally:
    """What was seen of the interrupts of one part."""

    part: str
    seconds: list[float] = field(default_factory=list)
    groups: int = 0
    early: int = 0
    """Came before the first line of ours ran, in Python's own start."""
    finished: int = 0
    troubles: list[str] = field(default_factory=list)
    equal: bool | None = None

    def line(self) -> str:
        """A row of the page's table."""
        seconds = np.array(self.seconds)
        shown = f"{np.median(seconds):.2f} / {np.quantile(seconds, 0.95):.2f} / {seconds.max():.2f}"
        return (
            f"| {self.part} | {len(seconds)} | {self.groups} | {self.early} | {shown} | {len(self.troubles)} | "
            f"{'equal' if self.equal else 'DIFFERS'} |"
        )


def interrupt(command: Command, tally: Tally, random: np.random.Generator) -> bool:
    """Interrupts it now and takes down how it ends; false where it has ended before."""
    family, group = command.family(), bool(random.random() < 0.5)
    if not command.runs:
        return False
    age, sent = time.monotonic() - command.began, time.monotonic()
    (os.killpg if group else os.kill)(command.process.pid, signal.SIGINT)
    try:
        status = command.process.wait(timeout=60)
    except subprocess.TimeoutExpired:
        command.process.kill()
        status = command.process.wait()
    seconds = time.monotonic() - sent
    if status in (0, 3):
        return False
    if status == -signal.SIGINT and age < 1 and "flows/" not in command.said:
        tally.early += 1
        return True
    left = [each for each in {*family, *command.marked()} if alive(each)]
    tally.seconds.append(seconds)
    tally.groups += group
    said, wrong = command.said, []
    wrong += [f"status {status}"] * (status != 130)
    wrong += [f"{seconds:.1f} s"] * (seconds > 5)
    wrong += [f"{len(left)} processes left"] * bool(left)
    wrong += ["no line, or several"] * (said.count("stopped in ") != 1 or "again to go on" not in said)
    wrong += ["a traceback"] * ("Traceback" in said or "Error" in said)
    wrong += ["output"] * bool(tally.part != "demo" and command.log.with_suffix(".out").stat().st_size)
    for each in left:
        with contextlib.suppress(psutil.Error):
            each.kill()
    if wrong:
        kept = command.log.with_name(f"{tally.part}-{len(tally.seconds)}.trouble")
        kept.write_text(said)
        tally.troubles.append(f"{tally.part} {len(tally.seconds)}, at {age:.1f} s: {', '.join(wrong)}; {said[-600:]}")
    sys.stderr.write(f"{tally.part} {len(tally.seconds)}: at {age:.1f} s, {seconds:.2f} s, {wrong or 'fine'}\n")
    return True


def alive(process: psutil.Process) -> bool:
    """Whether it still runs; one that has ended and waits to be noticed doesn't."""
    with contextlib.suppress(psutil.Error):
        return bool(process.status() != psutil.STATUS_ZOMBIE)
    return False


def sleep(command: Command, seconds: float) -> None:
    """So long, or till the command ends."""
    end = command.began + seconds
    while command.runs and time.monotonic() < end:
        time.sleep(min(0.02, max(end - time.monotonic(), 0)))


@dataclass
class Bench:
    """A folder to work in, and the dice."""

    folder: Path
    random: np.random.Generator
    count: int | None
    loading: float
    """Seconds that a command takes to load what it needs."""

    def file(self, name: str, **training: Any) -> Path:
        """A file of pipelines of its own, with its own root."""
        path = self.folder / f"{name}.yaml"
        pipeline = PIPELINE | {"training": PIPELINE["training"] | training}
        path.write_text(yaml.safe_dump({"root": f"{name}-root", "pipelines": {"emoji": pipeline}}), encoding="utf-8")
        return path

    def stage(self, stage: str, file: Path, *, forked: bool = True) -> Command:
        """One stage, started."""
        log = self.folder / f"{file.stem}-{stage}.log"
        return Command(log, stage, "--json", "--file", str(file), forked=forked)

    def times(self, default: int) -> int:
        return self.count or default


def root(file: Path) -> Path:
    """Where a file's pipeline is stored."""
    return file.with_name(f"{file.stem}-root") / "emoji"


def handed_on(document: Mapping[str, Any]) -> dict[str, Any]:
    """What must be equal of a stage's result: all but how long it took and how much of it was left to do."""
    return {name: value for name, value in document.items() if name not in ("seconds", "embedded", "version")}


def stored(folder: Path) -> dict[str, str]:
    """Digests of the vectors in the embeddings and in the tables, in the order of the items."""
    # Elsewhere: what has used LanceDB can't be forked any more.
    theirs, ours = FORK.Pipe()
    Forked(lambda: theirs.send(digests(folder))).wait()
    found: dict[str, str] = ours.recv()
    return found


def digests(folder: Path) -> dict[str, str]:
    """What `stored` gives."""
    found = {}
    for model in sorted((folder / "embeddings").glob("*")):
        found[f"embeddings {model.name}"] = digest(pq.read_table(sorted(model.glob("part-*.parquet"))))
    for model in sorted((folder / "vectors").glob("*.lance")):
        table = lancedb.connect(folder / "vectors").open_table(model.stem).to_arrow()
        found[f"vectors {model.stem}"] = digest(table.select(["item_id", "image_vector", "text_vector"]))
    return found


def digest(table: pa.Table) -> str:
    """Of a table's rows in the order of their items."""
    rows = sorted(table.to_pylist(), key=lambda row: str(row["item_id"]))
    return hashlib.sha256(repr(rows).encode()).hexdigest()


def checkpoints_of(file: Path) -> Path:
    """Where the one training under way leaves its checkpoints."""
    return next((root(file) / "runs").glob("*")) / "training" / "checkpoints"


def interrupted_stage(bench: Bench, stage: str, file: Path, takes: float, tally: Tally, times: int) -> None:
    """Interrupts one stage so many times."""
    before, loading = bench.folder / "before", bench.loading
    shutil.rmtree(before, ignore_errors=True)
    if root(file).exists():
        shutil.copytree(root(file), before)
    while len(tally.seconds) < times:
        training, late, forked = stage == "train", bench.random.random() < 0.5, bench.random.random() < 0.75
        folder = checkpoints_of(file) if training else file.parent
        seen = {each.name for each in folder.glob("step-*")} if training else set()
        command = bench.stage(stage, file, forked=forked)
        if training and late:
            if wait_for(lambda each=command: each.runs, folder, seen, "step-*[0-9]"):  # type: ignore[misc]
                time.sleep(bench.random.uniform(0, 0.4))
        else:
            longest = (2 if training else takes) + loading * (not forked)
            sleep(command, bench.random.uniform(0.6 * longest * late, longest))
        if interrupt(command, tally, bench.random):
            continue
        if training:
            raise RuntimeError(f"the training ended after {len(tally.seconds)} interrupts: give it more steps")
        command.document()
        tally.finished += 1
        shutil.rmtree(root(file), ignore_errors=True)
        if before.exists():
            shutil.copytree(before, root(file))


def stages(bench: Bench, parts: set[str]) -> list[Tally]:
    """All stages, one after the other: undisturbed in one root, interrupted in another where asked for."""
    calm, cut, tallies = bench.file("calm"), bench.file("cut"), []
    for stage in STAGES:
        began = time.monotonic()
        expected = handed_on(bench.stage(stage, calm).document())
        takes = time.monotonic() - began
        if stage in parts:
            tallies.append(Tally(stage))
            interrupted_stage(bench, stage, cut, takes, tallies[-1], bench.times(60 if stage == "train" else 20))
        found = handed_on(bench.stage(stage, cut).document())
        equal = found == expected and stored(root(cut)) == stored(root(calm))
        sys.stderr.write(f"{stage} took {takes:.1f} s undisturbed; {'equal' if equal else f'{found} not {expected}'}\n")
        if stage in parts:
            tallies[-1].equal = equal
    return tallies


def ranks(bench: Bench) -> Tally:
    """A training in two processes."""
    tally, files = (
        Tally("ranks"),
        [bench.file(name, processes=2, max_steps=400) for name in ("calm-ranks", "cut-ranks")],
    )
    for file in files:
        for stage in ("ingest", "mine"):
            bench.stage(stage, file).document()
    expected = handed_on(bench.stage("train", files[0]).document())
    interrupted_stage(bench, "train", files[1], 0.0, tally, bench.times(20))
    found = handed_on(bench.stage("train", files[1]).document())
    tally.equal = found == expected
    return tally


def serve(bench: Bench) -> Tally:
    """Server, schedules and runs: while they start, while nothing is to do, while a night is under way."""
    from prefect.client.orchestration import get_client
    from prefect.settings import PREFECT_API_URL, temporary_settings

    tally, file, night = Tally("serve"), bench.file("serve"), bench.file("night")
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    environment = {
        "PREFECT_HOME": str(bench.folder / "prefect"),
        "PREFECT_SERVER_API_PORT": str(port),
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_RUNNER_POLL_FREQUENCY": "1",
    }
    log = bench.folder / "serve.log"
    for number in range(10_000):
        if len(tally.seconds) >= bench.times(20):
            break
        # Prefect has read its settings where it was loaded: a forked one would not see these.
        command = Command(log, "serve", "--file", str(file), forked=False, environment=environment)
        if number % 3 == 0:
            sleep(command, bench.random.uniform(0, 15))
        else:
            while command.runs and "Serving" not in command.said:
                time.sleep(0.05)
            if not command.runs:
                raise RuntimeError(f"serve ended: {command.said}")
            if number % 3 == 2:
                with (
                    temporary_settings({PREFECT_API_URL: f"http://127.0.0.1:{port}/api"}),
                    get_client(sync_client=True) as client,
                ):
                    client.create_flow_run_from_deployment(client.read_deployment_by_name("nightly/emoji").id)
                while command.runs and len(command.family()) < 2:
                    time.sleep(0.05)
            time.sleep(bench.random.uniform(0, 12 if number % 3 == 2 else 3))
        interrupt(command, tally, bench.random)
    outcomes = []
    for each in (file, night):
        document = Command(log, "run", "--json", "--file", str(each)).document()
        outcomes.append((document["model_id"], document["metrics"], document["rows"]["served"], stored(root(each))))
    # A night that the server ran to its end has left nothing to do.
    same = [model == outcomes[1][0] and served == outcomes[1][2] for model, _, served, _ in outcomes]
    tally.equal = all(same) and outcomes[0][3] == outcomes[1][3]
    return tally


def demo(bench: Bench) -> Tally:
    """The demo, of a file of its own, beside which it leaves its icons, with a short training."""
    tally, copies = Tally("demo"), [bench.folder / name for name in ("demo-calm", "demo-cut")]
    for copy in copies:
        copy.mkdir()
        content = yaml.safe_load((HERE / "pipelines.yaml").read_text(encoding="utf-8"))
        content["pipelines"]["demo"]["training"] |= {"max_minutes": None, "max_steps": 150, "threads": 1}
        content["pipelines"]["demo"]["gate"] = {"first": "none"}  # so short a training wouldn't pass another
        (copy / "pipelines.yaml").write_text(yaml.safe_dump(content), encoding="utf-8")
    log = bench.folder / "demo.log"

    def start(copy: Path) -> Command:
        return Command(log, "demo", "--sheet", str(copy / "sheet.html"), home=copy)

    while len(tally.seconds) < bench.times(20):
        command = start(copies[1])
        sleep(command, bench.random.uniform(0, 25))
        tally.finished += not interrupt(command, tally, bench.random)
    states = []
    for copy in copies:
        command = start(copy)
        if command.process.wait() not in (0, 3):
            raise RuntimeError(command.said)
        states.append(stored(copy / ".pairloom" / "demo"))
    tally.equal = bool(states[0]) and states[0] == states[1]
    return tally


def main() -> None:
    """Prints a row a part, and what went wrong; exits with 1 where anything did."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", choices=[*PARTS, []], default=[], metavar="PART")
    parser.add_argument("--interrupts", type=int, help="instead of 60 for train and 20 for the others")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    parts, load, began = set(options.parts or PARTS), os.getloadavg()[0], time.monotonic()
    others: dict[str, Callable[[Bench], Tally]] = {"ranks": ranks, "serve": serve, "demo": demo}
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # its threads don't survive a fork
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        before = time.monotonic()
        subprocess.run([sys.executable, "-c", "import pairloom.flows.stages, open_clip, lancedb"], cwd=HERE, check=True)
        loading = time.monotonic() - before
        bench = Bench(Path(name), np.random.default_rng(options.seed), options.interrupts, loading)
        tallies = stages(bench, parts) if parts & {*STAGES} else []
        tallies += [part(bench) for name, part in others.items() if name in parts]
    for tally in tallies:
        sys.stdout.write(f"{tally.line()}\n")
    for trouble in (each for tally in tallies for each in tally.troubles):
        sys.stdout.write(f"{trouble}\n")
    sys.stdout.write(
        f"load {load:.1f} at the start, {os.getloadavg()[0]:.1f} at the end; {time.monotonic() - began:.0f} s\n"
    )
    sys.exit(any(tally.troubles or not tally.equal for tally in tallies))


if __name__ == "__main__":
    main()
