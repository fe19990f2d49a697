"""A night on object storage beside one on this machine's disk: seconds, and requests of each stage.

    python -m benchmarks.cloud
    python -m benchmarks.cloud --rows 5000 --rounds 5

A source of Parquet files with drawn pictures, as of `benchmarks.nights`: a first night over so many rows, whose
training is some steps, then a night over 1 % more. The storage is an S3 server of this machine (moto's, in a process of
its own). Both roots take turns; each night is a process of its own with one thread; libraries are imported before.
"Answered at once" is the ratio without the server's own CPU seconds, while which a night mostly waits.
"""

import argparse
import importlib
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import yaml

from benchmarks.nights import FILE_ROWS, LIBRARIES, write_pipelines, write_rows
from benchmarks.object_server import BUCKET, ObjectServer, object_server

MAX_RATIO = 1.3
KINDS = ("GET", "HEAD", "PUT", "POST", "DELETE")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=5_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=100, help="of training")
    parser.add_argument("--run", type=Path, default=None, help=argparse.SUPPRESS)
    parser.add_argument("--port", type=int, default=None, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.run:
        sys.stdout.write(json.dumps(night(asked.run, ObjectServer(asked.port) if asked.port else None)))
        return
    with tempfile.TemporaryDirectory() as made, object_server(free_port(), Path(made) / "log") as server:
        found: dict[str, list[list[dict[str, Any]]]] = {"disk": [], "s3": []}
        for number in range(asked.rounds):
            for where in ("disk", "s3") if number % 2 == 0 else ("s3", "disk"):
                folder = Path(made) / f"{where}-{number}"
                root = f"s3://{BUCKET}/{number}" if where == "s3" else "stored"
                found[where].append(both_nights(folder, root, asked, server))
                sys.stderr.write(f"{where} {number}: {[round(each['wall'], 1) for each in found[where][-1]]} s\n")
        sys.stdout.writelines(f"{line}\n" for line in lines(found))


def free_port() -> int:
    """A port of this machine that nothing listens on."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return int(taken.getsockname()[1])


def both_nights(folder: Path, root: str, asked: argparse.Namespace, server: ObjectServer) -> list[dict[str, Any]]:
    """A first night under a root, and one over 1 % more rows."""
    source = folder / "source"
    source.mkdir(parents=True)
    for start in range(0, asked.rows, FILE_ROWS):
        write_rows(source / f"rows-{start:08d}.parquet", start, min(start + FILE_ROWS, asked.rows))
    write_pipelines(folder)
    file = folder / "pipelines.yaml"
    document = yaml.safe_load(file.read_text(encoding="utf-8"))
    document["root"] = root
    document["pipelines"]["nights"]["training"]["max_steps"] = asked.steps
    file.write_text(yaml.safe_dump(document), encoding="utf-8")
    port = server.address.rpartition(":")[2]
    first = in_process(file, server, port if root.startswith("s3:") else None)
    write_rows(source / f"rows-{asked.rows:08d}.parquet", asked.rows, asked.rows + asked.rows // 100)
    return [first, in_process(file, server, port if root.startswith("s3:") else None)]


def in_process(file: Path, server: ObjectServer, port: str | None) -> dict[str, Any]:
    """What one night came to, in a process of its own."""
    threads = {"OMP_NUM_THREADS": "1", "LANCE_CPU_THREADS": "1", "PAIRLOOM_CACHE": str(file.parent / "cache")}
    command = [sys.executable, "-m", "benchmarks.cloud", "--run", str(file), *(["--port", port] if port else [])]
    environment = {**os.environ, **server.environment, **threads}
    done = subprocess.run(command, stdout=subprocess.PIPE, env=environment, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def night(file: Path, server: ObjectServer | None) -> dict[str, Any]:
    """Run one: its wall and CPU seconds, and the requests of its stages."""
    for name in LIBRARIES:
        importlib.import_module(name)
    import torch

    from pairloom.flows.config import load_pipeline
    from pairloom.flows.nightly import nightly
    from pairloom.tasks.stage import listen

    torch.set_num_threads(1)
    requests: dict[str, Counter[str]] = {}

    def hear(stage: str, done: float, total: float | None, note: str) -> None:
        if server and (done, total, note) == (0, None, ""):
            server.spoil()
        elif server and note.startswith("done ·"):
            own = Counter(each.split()[0] for each in server.requests())
            requests[stage] = requests.get(stage, Counter()) + own
            server.spoil()

    listen(hear)
    served = server.cpu_seconds() if server else 0.0
    started, began = time.monotonic(), sum(os.times()[:4])
    ended = nightly(load_pipeline(file))
    assert ended.outcome == "released", ended.reason
    return {
        "wall": time.monotonic() - started,
        "cpu": sum(os.times()[:4]) - began,
        "server": server.cpu_seconds() - served if server else 0.0,
        "requests": requests,
        "load": os.getloadavg()[0],
    }


def lines(found: dict[str, list[list[dict[str, Any]]]]) -> list[str]:
    """Tables of what was found."""
    told = [
        "| night | disk, s | S3, s | ratio | answered at once | CPU: disk, s | S3, s | the server's, s | load |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for place, name in enumerate(("first", "1 % more")):
        disk, s3 = ([each[place] for each in found[where]] for where in ("disk", "s3"))
        middle = {
            kind: [statistics.median(each[kind] for each in of) for of in (disk, s3)]
            for kind in ("wall", "cpu", "server", "load")
        }
        ratio = statistics.median(there["wall"] / here["wall"] for here, there in zip(disk, s3, strict=True))
        at_once = statistics.median(
            (there["wall"] - there["server"]) / here["wall"] for here, there in zip(disk, s3, strict=True)
        )
        wanted = " " if ratio <= MAX_RATIO else f" (wanted: ≤ {MAX_RATIO}) "
        told.append(
            f"| {name} | {middle['wall'][0]:.1f} | {middle['wall'][1]:.1f} | {ratio:.2f}{wanted}| {at_once:.2f} | "
            f"{middle['cpu'][0]:.1f} | {middle['cpu'][1]:.1f} | {middle['server'][1]:.1f} | {max(middle['load']):.1f} |"
        )
    told += ["", f"| requests | {' | '.join(KINDS)} | all | 1 % more |", f"| --- |{' --- |' * (len(KINDS) + 2)}"]
    first, second = (Counter[str](), Counter[str]())
    for stage, counts in found["s3"][-1][0]["requests"].items():
        later = found["s3"][-1][1]["requests"].get(stage, {})
        first.update(counts)
        told.append(_row(stage, counts, later))
    for stage, later in found["s3"][-1][1]["requests"].items():
        second.update(later)
        if stage not in found["s3"][-1][0]["requests"]:
            told.append(_row(stage, {}, later))
    return [*told, _row("all", first, second)]


def _row(stage: str, counts: dict[str, int], later: dict[str, int]) -> str:
    figures = [counts.get(kind, 0) for kind in KINDS]
    return f"| {stage} | {' | '.join(map(str, figures))} | {sum(figures)} | {sum(later.values())} |"


if __name__ == "__main__":
    main()
