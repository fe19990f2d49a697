"""What Prefect costs a night: the same tiny nights as flow runs of a server and as plain calls, alternating.

    python -m benchmarks.orchestration --nights 5

One process runs both kinds, each night over a fresh root; a night of each kind comes first and isn't counted, so that
start-up (imports, the server's first requests) is apart. Taken are wall seconds, and processor seconds of this process
and its children, beside those of the server, which whoever shares its cores pays as well.
"""

import argparse
import contextlib
import json
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil
import yaml
from prefect import tags
from prefect.settings import PREFECT_API_URL, temporary_settings

from benchmarks.prefect_pages import BLOCKS
from benchmarks.prefect_server import Prefect
from pairloom.flows import deployed
from pairloom.flows.config import load_pipeline
from pairloom.flows.nightly import nightly
from pairloom.flows.outcome import Night
from pairloom.flows.run_tags import run_tags
from pairloom.tasks.pipeline import Pipeline

TRAINING = {"max_minutes": None, "max_steps": 20, "batch_size": 32, "threads": 1}
NAME = "tiny"


@dataclass(frozen=True)
class Cost:
    """Of one night, in seconds."""

    wall: float
    cpu: float
    """Of this process and its children."""
    server: float
    """Of the server's processes meanwhile."""


def pipeline_at(folder: Path) -> Pipeline:
    """A tiny night: some 240 emoji and 20 steps, nothing asked of a person, every stage here."""
    blocks = {**BLOCKS, "training": TRAINING, "gate": {"first": "none"}, "workers": {"default": "cpu"}}
    file = folder / "pipelines.yaml"
    file.write_text(yaml.safe_dump({"root": "stored", "pipelines": {NAME: blocks}}), encoding="utf-8")
    return load_pipeline(file)


def orchestrated(pipeline: Pipeline) -> Night:
    """The night as `pairloom run` runs it where a server is configured."""
    with tags(*run_tags(pipeline.name)):
        return deployed.nightly(pipeline)


def cost(night: Callable[[Pipeline], Night], pipeline: Pipeline, server: psutil.Process) -> Cost:
    """One night over a fresh root."""
    shutil.rmtree(pipeline.root, ignore_errors=True)
    began, own, theirs = time.monotonic(), own_seconds(), seconds_of(server)
    outcome = night(pipeline).outcome
    if outcome != "released":
        raise RuntimeError(f"the night was to be released: {outcome}")
    return Cost(time.monotonic() - began, own_seconds() - own, seconds_of(server) - theirs)


def own_seconds() -> float:
    """Processor seconds of this process and of its children that have ended."""
    return sum(os.times()[:4])


def seconds_of(server: psutil.Process) -> float:
    """Processor seconds of a process and what it started."""
    found = 0.0
    for each in (server, *server.children(recursive=True)):
        with contextlib.suppress(psutil.Error):
            times = each.cpu_times()
            found += times.user + times.system
    return found


@contextlib.contextmanager
def serving(folder: Path) -> Iterator[tuple[str, psutil.Process]]:
    """A server's API, and its process."""
    with Prefect(folder).running() as prefect:
        yield prefect.api, psutil.Process(prefect.process("server").pid)


def compared(nights: int, folder: Path) -> dict[str, Any]:
    """Medians of both kinds, and what the orchestrated nights took more, pair by pair."""
    with serving(folder / "prefect") as (api, server):
        pipeline = pipeline_at(folder)
        taken: dict[str, list[Cost]] = {"plain": [], "prefect": []}
        for number in range(nights + 1):
            plain = cost(nightly, pipeline, server)
            with temporary_settings({PREFECT_API_URL: api}):
                through = cost(orchestrated, pipeline, server)
            if number:
                taken["plain"].append(plain)
                taken["prefect"].append(through)
                sys.stderr.write(f"{plain} {through}\n")
    found: dict[str, Any] = {"nights": nights, "load": round(os.getloadavg()[0], 1)}
    for key in asdict(taken["plain"][0]):
        own = [getattr(each, key) for each in taken["plain"]]
        theirs = [getattr(each, key) for each in taken["prefect"]]
        more = sorted(round(b - a, 2) for a, b in zip(own, theirs, strict=True))
        found[key] = {
            "plain": round(statistics.median(own), 2),
            "prefect": round(statistics.median(theirs), 2),
            "more": {"least": more[0], "median": round(statistics.median(more), 2), "most": more[-1]},
        }
    return found


def main() -> None:
    """One JSON document."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--nights", type=int, default=5)
    with tempfile.TemporaryDirectory() as name:
        sys.stdout.write(json.dumps(compared(parser.parse_args().nights, Path(name)), indent=1) + "\n")


if __name__ == "__main__":
    main()
