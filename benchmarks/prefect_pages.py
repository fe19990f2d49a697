"""A person's walk through Prefect's pages: nights from the form on two pools, cancelled, killed, approved and refused.

    python -m benchmarks.prefect_pages SCREENSHOTS

A server of its own, a worker for the pool `cpu` and one for `gpu`, Debian's Chromium without a window. The collection
is one artist's emoji of faces and animals; the training has its pool, and what passes waits for a person. Every page
that is opened is kept as a picture in the folder SCREENSHOTS: somebody has to look at them.
"""

import argparse
import contextlib
import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import yaml
from playwright.sync_api import Locator, Page, TimeoutError, sync_playwright
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterParentFlowRunId,
    LogFilter,
    LogFilterFlowRunId,
)
from prefect.client.schemas.objects import FlowRun
from prefect.settings import PREFECT_API_REQUEST_TIMEOUT, PREFECT_API_URL, temporary_settings

from benchmarks.bundle import DATA
from benchmarks.prefect_server import Prefect, wait
from pairloom.flows.deploy import deploy
from pairloom.flows.plan import plan_file
from pairloom.storage.releases import release_log

NAME = "faces"
NIGHT_SECONDS = 1500
PAGE_SECONDS = 600
STEPS = 900
UNDER_WAY = ("Scheduled", "Resuming", "Late", "Pending", "Submitting", "AwaitingWorker", "Running")
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
    "training": {"max_minutes": None, "max_steps": STEPS, "batch_size": 32, "threads": 1, "checkpoint_seconds": 1},
    "gate": {"first": "none", "max_regression": 1.0, "approval": "person"},
    "workers": {"default": "cpu", "train": "gpu"},
}


class Walk:
    """One browser, one server, one pipeline."""

    def __init__(self, prefect: Prefect, client: SyncPrefectClient, page: Page, pictures: Path) -> None:
        self.prefect, self.client, self.page, self.pictures = prefect, client, page, pictures
        self.seconds: dict[str, float] = {}
        self.folder = prefect.folder / "stored" / NAME
        self.file = prefect.folder / "pipelines.yaml"

    def write(self, **training: Any) -> None:
        """The file, with something else in its training."""
        blocks = {**BLOCKS, "training": {**BLOCKS["training"], **training}}
        document = {"root": "stored", "pipelines": {NAME: blocks}}
        self.file.write_text(yaml.safe_dump(document), encoding="utf-8")

    def deploy(self) -> None:
        """`pairloom deploy`."""
        deploy(plan_file(self.file, [NAME]), [NAME])

    def open(self, path: str, until: str) -> None:
        """Open a page, and wait until it shows something."""
        self.page.goto(f"{self.prefect.address}{path}", wait_until="domcontentloaded")
        self.page.get_by_text(until).first.wait_for()

    def picture(self, name: str, height: int = 1000) -> None:
        """Keep what is seen, once it has stopped to change."""
        self.page.set_viewport_size({"width": 1400, "height": height})
        self.page.wait_for_timeout(5000)
        self.page.screenshot(path=self.pictures / f"{len(list(self.pictures.glob('*.png'))):02}-{name}.png")
        self.page.set_viewport_size({"width": 1400, "height": 1000})

    def field(self, label: str) -> Locator:
        """Where the form takes the value of a key."""
        properties = self.page.locator(".schema-form-property", has=self.page.get_by_text(label, exact=True))
        # Blocks come before what they hold.
        return properties.last.locator("input, textarea, select").first

    def start(self, name: str, **edits: int) -> FlowRun:
        """A night from the form, with some of its values edited."""
        deployment = self.client.read_deployment_by_name(f"nightly/{NAME}")
        before = {run.id for run in self.client.read_flow_runs(limit=100)}
        self.open(f"/deployments/deployment/{deployment.id}/run", "Submit")
        for label, value in edits.items():
            field = self.field(f"{label.replace('_', ' ').title()} (Optional)")
            field.fill(str(value))
            field.scroll_into_view_if_needed()
        self.picture(f"{name}-form")

        def started() -> FlowRun | None:
            # The page leaves its form once a run was made; of a server that is too busy it says so and stays.
            if self.page.url.endswith("/run"):
                self.page.get_by_role("button", name="Submit", exact=True).last.click()
                with contextlib.suppress(TimeoutError):
                    self.page.wait_for_url(lambda address: not address.endswith("/run"), timeout=120_000)
            return next((run for run in self.client.read_flow_runs(limit=100) if run.id not in before), None)

        run = wait(started, NIGHT_SECONDS, pause=1)
        assert run is not None, "it was waited for"
        return run

    def state(self, run: FlowRun) -> str:
        """The name of its state now."""
        state = self.client.read_flow_run(run.id).state
        return state.name or "" if state else ""

    def said(self, run: FlowRun) -> str:
        """The message of its state now."""
        state = self.client.read_flow_run(run.id).state
        return state.message or "" if state else ""

    def trained(self, run: FlowRun) -> FlowRun:
        """The run of the training on its pool, once that has left another checkpoint."""

        def further() -> bool:
            if self.state(run) not in UNDER_WAY:
                raise RuntimeError(f"the night ended too early: {self.client.read_flow_run(run.id).state}")
            return bool(self.below(run)) and self.step() > before

        before = self.step()
        wait(further, NIGHT_SECONDS, pause=0.5)
        return self.below(run)[0]

    def step(self) -> int:
        """The newest checkpoint's."""
        files = self.folder.glob("runs/*/training/checkpoints/step-*[0-9]")
        return max((int(file.name.removeprefix("step-")) for file in files), default=0)

    def below(self, run: FlowRun) -> list[FlowRun]:
        """Its runs on other pools that have begun."""
        chosen = FlowRunFilter(parent_flow_run_id=FlowRunFilterParentFlowRunId(any_=[run.id]))
        return [each for each in self.client.read_flow_runs(flow_run_filter=chosen) if each.start_time]

    def goes_on(self, run: FlowRun) -> str:
        """What a training said of the checkpoint that it went on from."""
        logs = self.client.read_logs(LogFilter(flow_run_id=LogFilterFlowRunId(any_=[run.id])), limit=200)
        return next((line.message for line in logs if "goes on from step" in line.message), "from nothing")

    def took(self, what: str, run: FlowRun, *states: str, since: float | None = None) -> None:
        """Wait for a state of a run, and take down how long that took."""
        began = since or time.monotonic()

        def reached() -> bool:
            if (now := self.state(run)) in states:
                return True
            if now not in (*UNDER_WAY, "Cancelling", "Suspended"):
                raise RuntimeError(f"{what}: {now}, not {states}: {self.said(run)}")
            return False

        wait(reached, NIGHT_SECONDS, pause=0.2)
        self.seconds[what] = round(time.monotonic() - began, 1)
        self.tell(f"{what}: {self.seconds[what]} s; {self.said(run)}")

    def tell(self, said: str) -> None:
        """What came of a step, for who waits."""
        sys.stderr.write(f"{said} (load {os.getloadavg()[0]:.0f})\n")

    def look(self, run: FlowRun, name: str) -> None:
        """The page of a run, and its artifacts."""
        self.open(f"/runs/flow-run/{run.id}", "Artifacts")
        self.picture(name)
        self.page.get_by_text("Artifacts", exact=True).first.click()
        self.picture(f"{name}-artifacts", 1300)

    def read(self, run: FlowRun, key: str, name: str) -> None:
        """The page of an artifact of a run."""
        found = [each for each in self.client.read_artifacts() if each.flow_run_id == run.id and each.key == key]
        newest = max(found, key=lambda each: str(each.created)).id
        self.page.goto(f"{self.prefect.address}/artifacts/artifact/{newest}", wait_until="domcontentloaded")
        self.page.locator("table").first.wait_for()
        self.picture(name, 3000)

    def answer(self, run: FlowRun, word: str, name: str) -> None:
        """A person's word, by the form of a suspended run."""
        self.open(f"/runs/flow-run/{run.id}", "Artifacts")
        self.page.get_by_role("button", name="Resume", exact=True).last.click()
        form = self.page.locator("#p-modal-teleport-target")
        # Prefect's own list, which a click of a driven browser leaves shut.
        form.locator(".p-select button").first.focus()
        self.page.keyboard.press("Space")
        self.page.locator(".p-select-option", has_text=word).click()
        form.locator("textarea").first.fill("Ada")
        self.picture(f"{name}-answer")
        form.get_by_role("button", name="Submit", exact=True).click()

    def cancelled(self) -> None:
        """A night that is cancelled while its training runs on the other pool."""
        night = self.start("cancelled", max_steps=STEPS)
        training = self.trained(night)
        self.look(training, "training")
        self.look(night, "night")
        self.page.get_by_role("button", name="Cancel", exact=True).last.click()
        self.picture("cancel-asks")
        if (now := self.state(training)) != "Running":
            raise RuntimeError(f"the training ended before it was cancelled: {now}")
        began = time.monotonic()
        self.page.get_by_role("button", name="Confirm", exact=True).last.click()
        self.took("from Confirm to Cancelled, the night", night, "Cancelled", since=began)
        self.took("from Confirm to Cancelled, its training", training, "Cancelled", since=began)
        self.look(night, "cancelled")

    def killed(self) -> None:
        """A night whose training is killed together with its worker."""
        night, before = self.start("killed"), self.step()
        training = self.trained(night)
        self.prefect.kill("worker-gpu")
        began = time.monotonic()
        self.tell(f"the checkpoint was of step {before}; the training: {self.goes_on(training)}")
        self.took("from SIGKILL to Crashed", training, "Crashed", since=began)
        self.took("from SIGKILL to the end of the night", night, "Failed", since=began)
        self.look(training, "crashed")
        self.look(night, "failed")
        self.prefect.start_worker("gpu")

    def released(self) -> None:
        """A night that goes on from there, and is approved by its form."""
        before, night = self.step(), self.start("released")
        self.took("the night that goes on", night, "Suspended")
        self.tell(f"the checkpoint was of step {before}; the training: {self.goes_on(self.below(night)[0])}")
        self.look(night, "asks")
        self.read(night, f"approval-{NAME}", "sheet")
        self.answer(night, "approve", "released")
        self.took("from the answer to released", night, "Completed")
        self.look(night, "released")
        self.read(night, f"night-{NAME}", "report")

    def refused(self) -> None:
        """A night that follows the edited file, and whose challenger is refused by its form."""
        self.write(max_steps=STEPS // 3)
        night = self.start("refused")
        self.took("a night of the edited file", night, "Suspended")
        self.read(night, f"approval-{NAME}", "second-sheet")
        self.answer(night, "refuse", "refused")
        self.took("from the answer to held", night, "Held")
        self.look(night, "refused")
        self.read(night, f"night-{NAME}", "refused-report")

    def nights(self) -> None:
        """All of them."""
        self.write()
        self.deploy()
        for pool in ("cpu", "gpu"):
            self.prefect.start_worker(pool)
        self.open("/deployments", "collect-garbage")
        self.picture("deployments")
        self.cancelled()
        self.killed()
        self.released()
        self.refused()
        self.open("/runs", "nightly-faces")
        self.picture("runs")
        current = release_log(self.folder).current()
        if current is None or current.number != 1:
            raise RuntimeError(f"the one that was approved was to be served, not {current}")


def main() -> None:
    """Prints the seconds as JSON; raises where a night ends as it should not."""
    parser = argparse.ArgumentParser()
    parser.add_argument("screenshots", type=Path)
    pictures: Path = parser.parse_args().screenshots
    pictures.mkdir(parents=True, exist_ok=True)
    with (
        tempfile.TemporaryDirectory() as name,
        Prefect(Path(name)).running() as prefect,
        temporary_settings({PREFECT_API_URL: prefect.api, PREFECT_API_REQUEST_TIMEOUT: PAGE_SECONDS}),
        get_client(sync_client=True) as client,
        sync_playwright() as driver,
    ):
        browser = driver.chromium.launch(executable_path="/usr/bin/chromium", args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1400, "height": 1000})
        page.set_default_timeout(1000 * PAGE_SECONDS)
        walk = Walk(prefect, client, page, pictures)
        walk.nights()
        browser.close()
    sys.stdout.write(json.dumps(walk.seconds) + "\n")


if __name__ == "__main__":
    main()
