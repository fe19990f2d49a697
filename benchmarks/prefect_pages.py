"""A person's walk through Prefect's pages: nights from the form on two pools, one cancelled, one killed, one released.

    python -m benchmarks.prefect_pages SCREENSHOTS

A server of its own, a worker for the pool `cpu` and one for `gpu`, Debian's Chromium without a window. The collection
is one artist's emoji of faces and animals; the training has its pool, and what passes waits for a person. Every page
that is opened is kept as a picture in the folder SCREENSHOTS: somebody has to look at them.
"""

import argparse
import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import yaml
from playwright.sync_api import Page, sync_playwright
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterParentFlowRunId
from prefect.client.schemas.objects import FlowRun
from prefect.settings import PREFECT_API_URL, temporary_settings

from benchmarks.bundle import DATA
from benchmarks.prefect_server import Prefect, wait
from pairloom.flows.config import load_pipeline
from pairloom.flows.deploy import deploy_pipelines

NIGHT_SECONDS = 1500
BLOCKS: dict[str, Any] = {
    "sources": [
        {
            "kind": "jsonl",
            "path": str(DATA / "emoji" / "captions.jsonl"),
            "base": str(DATA),
            "where": "source = 'twemoji' and (subgroup like 'face-%' or subgroup like 'animal-%')",
        }
    ],
    "columns": {"id": "image_id", "texts": ["texts"], "group": "concept_id", "split": "split"},
    "ingest": {"max_side": 64},
    "model": {"architecture": "tiny-32"},
    "training": {"max_minutes": None, "max_steps": 400, "batch_size": 32, "threads": 1, "checkpoint_seconds": 1},
    "gate": {"first": "none", "max_regression": 1.0, "approval": "person"},
    "workers": {"default": "cpu", "train": "gpu"},
}


class Walk:
    """One browser, one server, one pipeline."""

    def __init__(self, prefect: Prefect, client: SyncPrefectClient, page: Page, pictures: Path) -> None:
        self.prefect, self.client, self.page, self.pictures = prefect, client, page, pictures
        self.seconds: dict[str, float] = {}
        self.folder = prefect.folder / "stored" / "faces"

    def open(self, path: str, name: str, *, until: str | None = None) -> None:
        """Open a page and keep a picture of it."""
        self.page.goto(f"{self.prefect.address}{path}", wait_until="domcontentloaded", timeout=120_000)
        if until:
            self.page.get_by_text(until).first.wait_for(timeout=120_000)
        self.picture(name)

    def picture(self, name: str) -> None:
        """Keep what is seen, once it has stopped to change."""
        self.page.wait_for_timeout(3000)
        self.page.screenshot(path=self.pictures / f"{len(list(self.pictures.glob('*.png'))):02}-{name}.png")

    def press(self, name: str) -> None:
        """Press the last button of that name that is shown."""
        self.page.get_by_role("button", name=name, exact=True).last.click(timeout=120_000)

    def state(self, run: FlowRun) -> str:
        """The name of its state now."""
        state = self.client.read_flow_run(run.id).state
        return state.name or "" if state else ""

    def start(self, name: str) -> FlowRun:
        """A night from the form."""
        deployment = self.client.read_deployment_by_name("nightly/faces")
        before = {run.id for run in self.client.read_flow_runs(limit=100)}
        self.open(f"/deployments/deployment/{deployment.id}/run", f"{name}-form", until="Submit")
        self.press("Submit")

        def started() -> FlowRun | None:
            return next((run for run in self.client.read_flow_runs(limit=100) if run.id not in before), None)

        run = wait(started, NIGHT_SECONDS)
        assert run is not None, "it was waited for"
        return run

    def trained(self, run: FlowRun) -> FlowRun:
        """The run of the training on its pool, once that has left another checkpoint."""

        def steps() -> int:
            files = self.folder.glob("runs/*/training/checkpoints/step-*[0-9]")
            return max((int(file.name.removeprefix("step-")) for file in files), default=0)

        def further() -> bool:
            if self.state(run) not in ("Scheduled", "Late", "Pending", "Submitting", "Running"):
                raise RuntimeError(f"the night ended too early: {self.client.read_flow_run(run.id).state}")
            return bool(self.below(run)) and steps() > before

        before = steps()
        wait(further, NIGHT_SECONDS, pause=0.5)
        return self.below(run)[0]

    def below(self, run: FlowRun) -> list[FlowRun]:
        """Its runs on other pools that have begun."""
        chosen = FlowRunFilter(parent_flow_run_id=FlowRunFilterParentFlowRunId(any_=[run.id]))
        return [each for each in self.client.read_flow_runs(flow_run_filter=chosen) if each.start_time]

    def took(self, what: str, run: FlowRun, *states: str, since: float | None = None) -> None:
        """Wait for a state of a run, and take down how long that took."""
        began = since or time.monotonic()
        wait(lambda: self.state(run) in states, NIGHT_SECONDS, pause=0.1)
        self.seconds[what] = round(time.monotonic() - began, 1)
        sys.stderr.write(f"{what}: {self.seconds[what]} s, load {os.getloadavg()[0]:.0f}\n")

    def look(self, run: FlowRun, name: str) -> None:
        """The page of a run, and its artifacts."""
        self.open(f"/runs/flow-run/{run.id}", name, until="Artifacts")
        self.page.get_by_text("Artifacts", exact=True).first.click()
        self.picture(f"{name}-artifacts")

    def cancelled(self) -> None:
        """A night that is cancelled while its training runs on the other pool."""
        night = self.start("cancelled")
        training = self.trained(night)
        self.look(training, "training")
        self.look(night, "night")
        self.press("Cancel")
        self.picture("cancel-asks")
        self.press("Confirm")
        began = time.monotonic()
        self.took("from Confirm to Cancelled, the night", night, "Cancelled", since=began)
        self.took("from Confirm to Cancelled, its training", training, "Cancelled", since=began)
        self.look(night, "cancelled")

    def killed(self) -> None:
        """A night whose training is killed together with its worker."""
        night = self.start("killed")
        training = self.trained(night)
        self.prefect.kill("worker-gpu")
        began = time.monotonic()
        self.took("from SIGKILL to Crashed", training, "Crashed", since=began)
        self.took("from SIGKILL to the end of the night", night, "Failed", since=began)
        self.look(training, "crashed")
        self.prefect.start_worker("gpu")

    def released(self) -> None:
        """A night that goes on from there, and is approved by its form."""
        night = self.start("released")
        self.took("the night that goes on", night, "Suspended")
        self.look(night, "asks")
        self.press("Resume")
        self.picture("answer-form")
        form = self.page.locator("#p-modal-teleport-target")
        form.get_by_role("combobox").first.click()
        self.page.get_by_text("approve", exact=True).last.click()
        form.locator("textarea").first.fill("Ada")
        self.picture("answer-filled")
        form.get_by_role("button", name="Submit").last.click()
        self.took("from the answer to released", night, "Completed")
        self.look(night, "released")
        self.page.get_by_text("night-faces").first.click()
        self.picture("report")


def main() -> None:
    """Prints the seconds as JSON; raises where a night ends as it should not."""
    parser = argparse.ArgumentParser()
    parser.add_argument("screenshots", type=Path)
    pictures: Path = parser.parse_args().screenshots
    pictures.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as name, Prefect(Path(name)).running() as prefect:
        file = prefect.folder / "pipelines.yaml"
        document = {"root": str(prefect.folder / "stored"), "pipelines": {"faces": BLOCKS}}
        file.write_text(yaml.safe_dump(document), encoding="utf-8")
        with (
            temporary_settings({PREFECT_API_URL: prefect.api}),
            get_client(sync_client=True) as client,
            sync_playwright() as driver,
        ):
            deploy_pipelines([load_pipeline(file)])
            for pool in ("cpu", "gpu"):
                prefect.start_worker(pool)
            browser = driver.chromium.launch(executable_path="/usr/bin/chromium", args=["--no-sandbox"])
            page = browser.new_page(viewport={"width": 1400, "height": 1000})
            page.set_default_timeout(180_000)
            walk = Walk(prefect, client, page, pictures)
            walk.cancelled()
            walk.killed()
            walk.released()
            browser.close()
    sys.stdout.write(json.dumps(walk.seconds) + "\n")


if __name__ == "__main__":
    main()
