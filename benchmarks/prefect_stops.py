"""A night that Prefect runs is stopped from outside in each of its stages, and started again.

    python -m benchmarks.prefect_stops [--kill] train ranks pool embed mine ingest

A server of its own, one worker for the pool `cpu`, one for `gpu`, and for each a night over the emoji; that of `pool`
has mining, training, evaluation and embedding on `gpu`. Once the stage says how far it is, the night is cancelled, as
the button in the UI does it; with `--kill` the stage's worker gets SIGKILL, and all that it started. Taken are the
seconds from there to the end of the night and of its run on the other pool, and what is left running. Then the night
is started again; it must end released, a training go on from a checkpoint, and `kept` says how many of the files that
were there stand untouched.
"""

import argparse
import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil
import yaml
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterStartTime,
    FlowRunFilterTags,
    LogFilter,
    LogFilterFlowRunId,
)
from prefect.client.schemas.objects import FlowRun
from prefect.settings import PREFECT_API_REQUEST_TIMEOUT, PREFECT_API_URL, temporary_settings
from prefect.states import Cancelling

from benchmarks.bundle import DATA
from benchmarks.prefect_server import Prefect, wait
from pairloom.flows.config import load_pipeline
from pairloom.flows.deploy import deploy_pipelines

PARTS = ("train", "ranks", "pool", "embed", "mine", "ingest")
STAGE_SECONDS = 1800

SOURCE = {
    "kind": "jsonl",
    "path": str(DATA / "emoji" / "captions.jsonl"),
    "base": str(DATA),
    "where": "skin_tone = 'none' and source = 'twemoji'",
}


def blocks(part: str) -> dict[str, Any]:
    """What `pipelines.yaml` says for one part."""
    training: dict[str, Any] = {
        "max_minutes": None, "max_steps": 250, "batch_size": 64, "threads": 1, "checkpoint_seconds": 1
    }  # fmt: skip
    if part == "ranks":
        training["processes"] = 2
    if part in ("embed", "mine", "ingest"):
        training["max_steps"] = 5
    elsewhere = part == "pool"
    source = {**SOURCE, "where": "true"} if part in ("ingest", "embed", "mine") else SOURCE
    return {
        "sources": [source],
        "columns": {"id": "image_id", "texts": ["texts"], "group": "concept_id", "split": "split"},
        "ingest": {"max_side": 64, "part_rows": 200},
        "model": {"architecture": "tiny-32"},
        "training": training,
        "gate": {"first": "none"},
        "workers": {
            "default": "cpu",
            **(dict.fromkeys(("mine", "train", "evaluate", "embed"), "gpu") if elsewhere else {}),
        },
    }


class Nights:
    """The nights of one part."""

    def __init__(self, folder: Path, part: str, client: SyncPrefectClient) -> None:
        self.part, self.client = part, client
        folder.mkdir()
        file = folder / "pipelines.yaml"
        document = {"root": str(folder / "stored"), "pipelines": {part: blocks(part)}}
        file.write_text(yaml.safe_dump(document), encoding="utf-8")
        self.pipeline = load_pipeline(file)
        deploy_pipelines([self.pipeline])

    def start(self) -> FlowRun:
        """A night, as a click on Quick run starts it."""
        found = self.client.read_deployment_by_name(f"nightly/{self.part}")
        return self.client.create_flow_run_from_deployment(found.id)

    def lines(self, run: FlowRun) -> list[str]:
        """What the page of a run shows, and those of its runs on other pools."""
        ids = [run.id, *(each.id for each in self.children(run))]
        logs = self.client.read_logs(LogFilter(flow_run_id=LogFilterFlowRunId(any_=ids)), limit=200)
        return [line.message for line in logs]

    def children(self, run: FlowRun) -> list[FlowRun]:
        """Its runs on other pools."""
        since = FlowRunFilterStartTime(after_=run.created) if run.created else None
        tagged = FlowRunFilterTags(all_=[self.part])
        found = self.client.read_flow_runs(flow_run_filter=FlowRunFilter(tags=tagged, start_time=since))
        return [each for each in found if each.parent_task_run_id]

    def ended(self, run: FlowRun, seconds: float = STAGE_SECONDS) -> FlowRun:
        """The run, once it is over."""

        def over() -> FlowRun | None:
            now = self.client.read_flow_run(run.id)
            return now if now.state and now.state.is_final() else None

        found = wait(over, seconds, pause=0.1)
        assert found is not None, "it is over"
        return found


def of_ours(folder: Path) -> list[psutil.Process]:
    """Processes of flow runs: what is started with this home, but the server and the workers themselves."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get("PREFECT_HOME") == str(folder) and "PREFECT__FLOW_RUN_ID" in process.environ():
                found.append(process)
        except psutil.Error:
            continue
    return found


def begun(nights: Nights, run: FlowRun, part: str) -> bool:
    """Whether the stage to be cancelled is under way."""
    run = nights.client.read_flow_run(run.id)
    if run.state and run.state.is_final():
        raise RuntimeError(f"the night of {part} ended {run.state} before it was cancelled")
    folder = nights.pipeline.folder
    if part in ("train", "ranks", "pool"):
        return bool(list(folder.glob("runs/*/training/checkpoints/step-*[0-9]")))
    if part == "ingest":
        return len(list(folder.glob("corpus/part-*.parquet"))) > 2
    if part == "embed":
        return len(list(folder.glob("embeddings/*/part-*.parquet"))) > 2
    return bool(list(folder.glob("snapshots/*.json")))


def goes_on(nights: Nights, run: FlowRun) -> str:
    """What a training said of the checkpoint that it went on from."""
    return next((line for line in nights.lines(run) if "goes on from step" in line), "")


def files(folder: Path) -> dict[Path, int]:
    """Parts and checkpoints, and when each was written."""
    found = (*folder.glob("*/part-*.parquet"), *folder.glob("*/*/part-*.parquet"))
    return {file: file.stat().st_mtime_ns for file in found}


def measure(part: str, prefect: Prefect, client: SyncPrefectClient, *, kill: bool) -> dict[str, Any]:
    """Stop a night, and go on."""
    nights = Nights(prefect.folder / part, part, client)
    run = nights.start()
    wait(lambda: begun(nights, run, part), STAGE_SECONDS)
    children = nights.children(run)
    there, load, began = files(nights.pipeline.folder), os.getloadavg()[0], time.monotonic()
    pool = "gpu" if part == "pool" else "cpu"
    if kill:
        prefect.kill(f"worker-{pool}")
    else:
        client.set_flow_run_state(run.id, Cancelling())
    over = nights.ended(run, 400)
    seconds = {"night": time.monotonic() - began}
    child_states = []
    for child in children:
        child_states.append(str(nights.ended(child, 400).state))
        seconds["other pool"] = time.monotonic() - began
    deadline = time.monotonic() + 60
    while (left := of_ours(prefect.folder / "prefect")) and time.monotonic() < deadline:
        time.sleep(0.1)
    seconds["processes"] = time.monotonic() - began
    if kill:
        prefect.start_worker(pool)
    second = nights.start()
    again, now = nights.ended(second), files(nights.pipeline.folder)
    return {
        "part": part,
        "load": round(load, 1),
        "state": str(over.state),
        "children": child_states,
        "seconds": {name: round(value, 1) for name, value in seconds.items()},
        "left": len(left),
        "again": str(again.state),
        "goes on": goes_on(nights, second),
        "kept": f"{sum(now.get(file) == at for file, at in there.items())} of {len(there)}",
    }


def main() -> None:
    """One JSON line a part."""
    parser = argparse.ArgumentParser()
    parser.add_argument("parts", nargs="*", default=PARTS)
    parser.add_argument("--kill", action="store_true")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        prefect = Prefect(Path(name))
        settings = {PREFECT_API_URL: prefect.api, PREFECT_API_REQUEST_TIMEOUT: STAGE_SECONDS}
        with prefect.running(), temporary_settings(settings), get_client(sync_client=True) as client:
            for pool in ("cpu", "gpu"):
                prefect.start_worker(pool)
            for part in chosen.parts:
                found = measure(part, prefect, client, kill=chosen.kill)
                sys.stdout.write(json.dumps(found) + "\n")
                sys.stdout.flush()


if __name__ == "__main__":
    main()
