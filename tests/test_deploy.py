"""Deployments, workers, `serve` and `run`, against a real Prefect server and real worker processes."""

import contextlib
import json
import shlex
import shutil
import signal
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import psutil
import pytest
from child_processes import running, wait_until
from conftest import free_port, prefect_environment, prefect_serving
from operators_pages import DOCS, commands
from prefect.blocks.notifications import CustomWebhookNotificationBlock
from prefect.blocks.webhook import Webhook
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import DeploymentUpdate, WorkPoolCreate, WorkPoolUpdate
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterTags,
    LogFilter,
    LogFilterFlowRunId,
)
from prefect.client.schemas.objects import FlowRun, State
from prefect.client.schemas.responses import DeploymentResponse
from prefect.client.schemas.sorting import ArtifactSort
from prefect.events import ResourceSpecification, emit_event
from prefect.events.schemas.automations import EventTrigger
from prefect.exceptions import ObjectAlreadyExists, ObjectNotFound, Pause, PrefectHTTPStatusError
from prefect.flow_engine import run_flow
from prefect.settings import (
    PREFECT_API_URL,
    PREFECT_FLOWS_HEARTBEAT_FREQUENCY,
    PREFECT_HOME,
    PREFECT_SERVER_API_PORT,
    temporary_settings,
)
from prefect.states import Failed, Running
from released_pipeline import save_model
from safetensors.numpy import load_file, save_file
from typer.testing import CliRunner

from benchmarks.prefect_server import answers
from pairloom.flows import stages
from pairloom.flows.approval import refuse_waiting
from pairloom.flows.approval_form import try_to_close_forms
from pairloom.flows.automations import remove_automations, silent_runs
from pairloom.flows.cli import app
from pairloom.flows.config import load_pipeline, pipeline_names
from pairloom.flows.deploy import ENVIRONMENT, Deployed, content, deploy, deploy_pipelines
from pairloom.flows.deployed import collect_garbage, embed, ingest, nightly, rollback, verify
from pairloom.flows.elsewhere import seen
from pairloom.flows.outcome import Night
from pairloom.flows.placement import placed
from pairloom.flows.plan import NIGHT, STAGES, UPKEEP, plan_deployments, plan_file
from pairloom.flows.serve import serve
from pairloom.flows.show.report import markdown
from pairloom.models.fitness import UnfitModelError
from pairloom.storage.approvals import require_waiting
from pairloom.storage.escaping import markdown_text
from pairloom.storage.modelstore import ModelStore
from pairloom.storage.quarantine import ReasonCount
from pairloom.storage.releases import release_log
from pairloom.storage.runs import Run
from pairloom.tasks.decide import decide, snapshot_ref, verdict_name
from pairloom.tasks.embed import embed as embed_items
from pairloom.tasks.notifying import NotifyConfig
from pairloom.tasks.pipeline import Pipeline, WorkersConfig
from pairloom.tasks.refs import Verdict

TOLD = (NIGHT, "publish")
"""What notifications are about."""
SCHEDULE = {"cron": "30 2 * * *", "timezone": "Europe/Berlin"}
HOSTILE = "<script>alert(1)</script> | [x](http://evil.example) *b* `c`"
# What a shell starts with `&` ignores interrupts, and so do all that it starts.
HEARS = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
PROCESS_TEMPLATE = DOCS / "deploy" / "pools" / "process.json"
SECRET = "b7d1f00d5ec3e7"
CLI = "import sys; from pairloom.flows.cli import main; sys.argv[0] = 'pairloom'; main()"


@pytest.fixture
def pipeline(tmp_path: Path, shapes: Path, write_pipelines: Callable[..., Path]) -> Pipeline:
    """A pipeline with a schedule, whose training belongs on another work pool."""
    return load_pipeline(
        write_pipelines(tmp_path, shapes, schedule=SCHEDULE, workers={"default": "cpu", "train": "gpu"})
    )


@pytest.fixture(scope="module")
def server(prefect_api: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SyncPrefectClient]:
    """A client of the real server, which is also the configured one."""
    settings = {PREFECT_API_URL: prefect_api, PREFECT_HOME: tmp_path_factory.mktemp("home")}
    # A run of this process would wait a second for its sign of life to end.
    with (
        temporary_settings(settings | {PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None}),
        get_client(sync_client=True) as client,
    ):
        yield client


class Receiver:
    """A web server of this machine, as a chat's webhook is one: it keeps what it is told."""

    def __init__(self) -> None:
        self.told: list[dict[str, str]] = []
        told = self.told

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                told.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
                self.send_response(204)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self.server.server_port}/?key={SECRET}"

    def heard(self, event: str) -> dict[str, str] | None:
        """What it was told first of an event."""
        return next((each for each in list(self.told) if each["event"] == event), None)


@pytest.fixture(scope="module")
def receiver(server: SyncPrefectClient) -> Iterator[Receiver]:
    """Hears of nights through two blocks of the server: `custom-webhook/ops` and `webhook/hook`."""
    assert server.api_url
    receiver = Receiver()
    told = {"event": "{{subject}}", "said": "{{body}}"}
    CustomWebhookNotificationBlock(name="ops", url=receiver.address, json_data=told).save("ops")
    Webhook(url=receiver.address).save("hook")
    threading.Thread(target=receiver.server.serve_forever, daemon=True).start()
    yield receiver
    receiver.server.shutdown()


@pytest.fixture(scope="module")
def silent(server: SyncPrefectClient) -> FlowRun:
    """A run that gave one sign of life, watched by the automation that `deploy` makes, which waits less long here."""
    run = server.create_flow_run(nightly, parameters={}, state=Running(), tags=["pairloom"])
    resource = {"prefect.resource.id": f"prefect.flow-run.{run.id}"}
    watch = silent_runs()
    assert isinstance(watch.trigger, EventTrigger)
    only = ResourceSpecification.model_validate(resource)
    trigger = watch.trigger.model_copy(update={"match": only, "within": timedelta(seconds=10)})
    server.create_automation(watch.model_copy(update={"name": "silent", "tags": [], "trigger": trigger}))
    tag = {"prefect.resource.role": "tag", "prefect.resource.id": "prefect.tag.pairloom"}
    emit_event("prefect.flow-run.heartbeat", resource=resource, related=[tag])
    return run


@dataclass(frozen=True)
class Worked:
    """A night that process workers ran."""

    pipeline: Pipeline
    night: FlowRun
    runs: list[FlowRun]
    logs: list[str]
    report: str
    bars: dict[str, float]
    """Progress artifacts by their keys."""


@pytest.fixture(scope="module")
def worked(
    server: SyncPrefectClient,
    prefect_api: str,
    silent: FlowRun,  # noqa: ARG001  # it takes as long to be missed as the night takes
    shapes: Path,
    write_pipelines: Callable[..., Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> Worked:
    """One night over hostile captions, started through the API, with training on the pool `gpu`."""
    folder = tmp_path_factory.mktemp("worked")
    collection = shutil.copytree(shapes, folder / "shapes")
    captions = collection / "captions.jsonl"
    rows = [json.loads(line) for line in captions.read_text().splitlines()]
    captions.write_text("".join(json.dumps(row | {"text": f"{row['text']} {HOSTILE}"}) + "\n" for row in rows))
    file = write_pipelines(folder, collection, workers={"default": "cpu", "train": "gpu"})
    template = json.loads(PROCESS_TEMPLATE.read_bytes())
    template["variables"]["properties"]["env"]["default"] = {
        "PAIRLOOM_FILE": str(file),
        "PAIRLOOM_ROOT": str(folder / "stored"),
    }
    with contextlib.suppress(ObjectAlreadyExists):
        server.create_work_pool(WorkPoolCreate(name="gpu", type="process"))
    server.update_work_pool("gpu", WorkPoolUpdate(base_job_template=template))
    assert deployed_from(file, (NIGHT, "train"), take_over=True).lacking == [
        f"work pool '{pool}' has no worker: start one with `prefect worker start --pool {pool}`"
        for pool in ("cpu", "gpu")
    ]

    environment = prefect_environment(folder, PREFECT_API_URL=prefect_api, PREFECT_WORKER_QUERY_SECONDS="1")
    with contextlib.ExitStack() as stack:
        # As the page starts them.
        starts = [each for each in commands("operating.md") if each.startswith("prefect worker start")]
        ports = [free_port() for _ in starts]
        workers = [
            stack.enter_context(
                running(
                    *("-m", *shlex.split(command)),
                    environment=environment | {"PREFECT_WORKER_WEBSERVER_PORT": str(port)},
                    log=folder / f"{port}.log",
                )
            )
            for command, port in zip(starts, ports, strict=True)
        ]
        for port in ports:
            wait_until(partial(answers, f"http://127.0.0.1:{port}/health"), *workers, pause=0.2)
        # What a person edits in the form goes back as JSON.
        parameters = json.loads(json.dumps(deployed(server, "nightly/shapes").parameters))
        parameters["pipeline"]["training"]["max_steps"] = 5
        night = ended(server, start(server, "nightly/shapes", parameters), *workers)

    runs = server.read_flow_runs(flow_run_filter=FlowRunFilter(tags=FlowRunFilterTags(all_=["shapes"])))
    logs = server.read_logs(LogFilter(flow_run_id=LogFilterFlowRunId(any_=[run.id for run in runs])), limit=200)
    artifacts = server.read_artifacts(limit=200)
    reports = [each for each in artifacts if each.flow_run_id == night.id and each.type == "markdown"]
    ours = {run.id for run in runs}
    bars = {each.key: each.data for each in artifacts if each.type == "progress" and each.flow_run_id in ours}
    assert night.created is not None
    runs = [run for run in runs if run.start_time and run.created and run.created >= night.created]
    return Worked(
        load_pipeline(file, overrides=["training.max_steps=5"]),
        night,
        runs,
        [each.message for each in logs],
        str(reports[0].data) if reports else "",
        {str(key): float(str(share)) for key, share in bars.items()},
    )


def with_defaults(values: dict[str, Any], form: dict[str, Any], block: dict[str, Any] | None = None) -> dict[str, Any]:
    """The values of a form as a browser shows them: where a block says nothing of a key, its default."""
    filled = dict(values)
    for key, field in (form if block is None else block)["properties"].items():
        if "default" in field:
            filled.setdefault(key, field["default"])
        if "$ref" in field:
            filled[key] = with_defaults(filled[key], form, form["definitions"][field["$ref"].rpartition("/")[2]])
    return filled


def prefect(*words: str) -> None:
    """`prefect …`, in this process."""
    from prefect.cli._app import _app as program

    with pytest.raises(SystemExit) as left:
        program(words)
    assert not left.value.code


def start(server: SyncPrefectClient, deployment: str, parameters: dict[str, Any] | None = None) -> FlowRun:
    """Start a run as the API's users do."""
    found = server.read_deployment_by_name(deployment)
    return server.create_flow_run_from_deployment(found.id, parameters=parameters)


def ended(server: SyncPrefectClient, run: FlowRun, *processes: "subprocess.Popen[bytes]") -> FlowRun:
    """The run, once it is in a final state."""

    def found() -> FlowRun | None:
        now = server.read_flow_run(run.id)
        return now if now.state and now.state.is_final() else None

    return wait_until(found, *processes, pause=0.2)


def scheduled(server: SyncPrefectClient, pipeline: str) -> list[FlowRun]:
    """The runs that a pipeline's schedule has made."""
    tags = FlowRunFilterTags(all_=["auto-scheduled", pipeline])
    return server.read_flow_runs(flow_run_filter=FlowRunFilter(tags=tags))


def ran(server: SyncPrefectClient, flow: Any, deployment: str, **parameters: Any) -> FlowRun:
    """A run of a deployment, by what a worker's process calls, once it has ended."""
    run = start(server, deployment, parameters or None)
    run_flow(flow, flow_run=server.read_flow_run(run.id), return_type="state")
    return server.read_flow_run(run.id)


def state_of(run: FlowRun) -> State[Any]:
    assert run.state is not None
    return run.state


def deployed_from(file: Path, flows: tuple[str, ...] = (NIGHT,), **options: bool) -> Deployed:
    """What `pairloom deploy` does, of these flows only: a server takes a second to read a form."""
    names = pipeline_names(file)
    return deploy([each for each in plan_file(file, names) if each.flow in flows], names, **options)


def deploy_of(pipeline: Pipeline, *flows: str) -> None:
    """The same of a pipeline that stands in no file."""
    deploy([each for each in plan_deployments([pipeline]) if each.flow in flows], [pipeline.name])


def deployed(server: SyncPrefectClient, name: str) -> DeploymentResponse:
    return server.read_deployment_by_name(name)


def test_deploy_registers_the_night_with_its_schedule_and_all_else_for_ad_hoc_runs_on_its_pool(
    server: SyncPrefectClient, pipeline: Pipeline
) -> None:
    names = [row["deployment"] for row in deploy_pipelines([pipeline])]
    assert names == [f"{flow.replace('_', '-')}/shapes" for flow in (NIGHT, *STAGES, *UPKEEP) if flow != "refit"]

    night = deployed(server, "nightly/shapes")
    (schedule,) = night.schedules
    assert schedule.active
    assert (schedule.schedule.cron, schedule.schedule.timezone) == tuple(SCHEDULE.values())  # type: ignore[union-attr]  # it is a cron
    assert night.description
    for name in names:
        each = deployed(server, name)
        assert each.work_pool_name == ("gpu" if name == "train/shapes" else "cpu")
        assert each.tags == ["pairloom", "shapes"]
        assert each.global_concurrency_limit is not None
        assert each.global_concurrency_limit.limit == 1
        assert bool(each.schedules) == (name == "nightly/shapes")


def test_the_form_is_typed_bounded_documented_and_filled_from_the_file(
    server: SyncPrefectClient, pipeline: Pipeline
) -> None:
    deploy_of(pipeline, NIGHT, "rollback")
    night = deployed(server, "nightly/shapes")

    assert night.parameter_openapi_schema is not None
    definitions = night.parameter_openapi_schema["definitions"]
    for name in Pipeline.model_fields:
        assert name in definitions["Pipeline"]["properties"]
    batch_size = definitions["TrainingConfig"]["properties"]["batch_size"]
    assert batch_size["type"] == "integer"
    assert batch_size["minimum"] == 2
    assert batch_size["description"]
    assert definitions["IndexConfig"]["properties"]["min_ann_recall@10"]["maximum"] == 1
    undocumented = [
        f"{block}.{name}"
        for block, definition in definitions.items()
        for name, field in definition["properties"].items()
        if "description" not in field and "$ref" not in field and "const" not in field
    ]
    assert not undocumented
    back = deployed(server, "rollback/shapes").parameter_openapi_schema
    assert back is not None
    assert list(back["properties"]) == ["release", "pipeline", "file"]
    assert all("description" in each or "$ref" in each for each in back["properties"].values())
    assert night.parameters["pipeline"]["training"]["max_steps"] == 6
    assert Pipeline.model_validate(night.parameters["pipeline"]) == pipeline


def test_deploying_again_changes_nothing_but_what_the_file_says(
    server: SyncPrefectClient, tmp_path: Path, shapes: Path, write_pipelines: Callable[..., Path]
) -> None:
    file = write_pipelines(tmp_path, shapes, schedule=SCHEDULE)
    deployed_from(file, take_over=True)
    first = deployed(server, "nightly/shapes")
    assert deployed_from(file).summary == "1 deployments: nothing changed"
    again = deployed(server, "nightly/shapes")
    assert (again.id, again.updated) == (first.id, first.updated)

    # What people have set on the server is theirs.
    mine = DeploymentUpdate(job_variables={"env": {"X": "1"}}, description="Ours.")
    server.update_deployment(first.id, mine)
    server.update_deployment_schedule(first.id, first.schedules[0].id, active=False)
    assert deployed_from(file).summary == "1 deployments: 1 updated"
    write_pipelines(tmp_path, shapes, schedule=SCHEDULE | {"cron": "0 3 * * *"})
    deployed_from(file)
    again = deployed(server, "nightly/shapes")
    assert again.description == first.description
    assert again.job_variables == {"env": {"X": "1"} | ENVIRONMENT}
    assert [(each.schedule.cron, each.active) for each in again.schedules] == [("0 3 * * *", False)]  # type: ignore[union-attr]  # it is a cron

    write_pipelines(tmp_path, shapes)
    deployed_from(file)
    assert deployed(server, "nightly/shapes").schedules == []


def test_the_commands_of_the_operators_pages_do_on_a_server_what_is_said_of_them(
    server: SyncPrefectClient,
    tmp_path: Path,
    shapes: Path,
    write_pipelines: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    workers = {"default": "operated"}
    file = write_pipelines(tmp_path, shapes, schedule=SCHEDULE, workers=workers)
    file.write_text(file.read_text().replace("shapes:", "shop:"))
    monkeypatch.chdir(DOCS.parent)
    made, left = [], {}
    for line in dict.fromkeys(commands("operating.md") + commands("prefect.md")):
        match shlex.split(line):
            case ["pairloom", "deploy", *options]:
                result = CliRunner().invoke(app, ["deploy", *options, "--file", str(file)])
                assert result.exit_code == 0, f"{line}: {result.output}"
            case ["prefect", "work-pool", "create", _, *options]:
                # The page has three ways to make one pool.
                made.append(f"made-by-{options[1]}")
                prefect("work-pool", "create", made[-1], *options)
                template = json.loads(Path(options[-1]).read_bytes())
                assert server.read_work_pool(made[-1]).base_job_template == template
            case ["prefect", "deployment", "run", name]:
                prefect("deployment", "run", name)
                left[name] = deployed(server, name).id
    assert made == ["made-by-process", "made-by-docker", "made-by-kubernetes"]
    assert is_deployed(server, "nightly/shop")
    waiting = server.read_flow_runs(flow_run_filter=FlowRunFilter(tags=FlowRunFilterTags(all_=["shop"])))
    assert {run.deployment_id for run in waiting if run.auto_scheduled is False} == set(left.values())
    assert left.keys() == {"nightly/shop"}


def test_what_left_the_file_is_paused_then_deleted_and_nothing_else_is_touched(
    server: SyncPrefectClient, tmp_path: Path, shapes: Path, write_pipelines: Callable[..., Path]
) -> None:
    other = write_pipelines(tmp_path, shapes).rename(tmp_path / "other.yaml")
    deployed_from(other, take_over=True)
    file = write_pipelines(tmp_path, shapes, schedule=SCHEDULE)
    with pytest.raises(ValueError, match=r"nightly/shapes is of .*other\.yaml.*--take-over"):
        deployed_from(file)
    foreign = server.create_deployment(server.create_flow_from_name("nightly"), "theirs")
    file.write_text(file.read_text().replace("shapes:", "theirs:"))
    with pytest.raises(ValueError, match="nightly/theirs is not Pairloom's"):
        deployed_from(file)
    file.write_text(file.read_text().replace("theirs:", "dresses:"))
    deployed_from(file)

    wait_until(partial(scheduled, server, "dresses"), pause=0.2)

    file.write_text(file.read_text().replace("dresses:", "clothes:"))
    changes = {row["deployment"]: row["change"] for row in deployed_from(file).rows}
    assert changes == {"nightly/clothes": "created", "nightly/dresses": "paused"}
    assert deployed(server, "nightly/dresses").paused

    def nothing_planned() -> bool:
        assert deployed_from(file).summary == "2 deployments: nothing changed"
        return not scheduled(server, "dresses")

    # The server's scheduler may be amid a round that began before the pause.
    wait_until(nothing_planned, pause=0.2)
    file.write_text(file.read_text().replace("clothes:", "dresses:"))
    deployed_from(file)
    assert (deployed(server, "nightly/dresses").paused, deployed(server, "nightly/clothes").paused) == (False, True)

    assert deployed_from(file, prune=True).summary == "2 deployments: 1 unchanged, 1 deleted"
    assert deployed_from(file).summary == "1 deployments: nothing changed"
    assert not is_deployed(server, "nightly/clothes")
    assert not deployed(server, "nightly/shapes").paused
    assert not server.read_deployment(foreign).paused


def test_a_run_follows_the_file_as_it_is_now_and_says_that_its_deployment_is_older(
    server: SyncPrefectClient,
    tmp_path: Path,
    shapes: Path,
    write_pipelines: Callable[..., Path],
    caplog: pytest.LogCaptureFixture,
) -> None:
    file = write_pipelines(tmp_path, shapes)
    deployed_from(file, ("ingest",), take_over=True)
    source = {"kind": "jsonl", "path": str(shapes / "captions.jsonl"), "where": "colour = 'red'"}
    write_pipelines(tmp_path, shapes, sources=[source])

    ran(server, ingest, "ingest/shapes")
    assert snapshot_ref(load_pipeline(file)).rows == 10
    assert f"older than {file.resolve()} (sources), and this run is of the file's values" in caplog.text
    edited = json.loads(json.dumps(deployed(server, "ingest/shapes").parameters))
    edited["pipeline"]["sources"][0]["where"] = "colour = 'blue' or colour = 'red'"
    ran(server, ingest, "ingest/shapes", **edited)
    assert snapshot_ref(load_pipeline(file)).rows == 20
    assert "and this run is of the form's values" in caplog.text

    caplog.clear()
    deployed_from(file, ("ingest",))
    ran(server, ingest, "ingest/shapes")
    assert "older" not in caplog.text

    # Prefect's page sends all that its form shows, and the form shows every default.
    blocks = {"sources": [source], "columns": {"id": "id"}, "evaluation": {}, "mining": {"num_negatives": 2}}
    write_pipelines(tmp_path, shapes, **(blocks | {"mining": {}}))
    deployed_from(file, ("ingest",))
    write_pipelines(tmp_path, shapes, **blocks)
    seen = deployed(server, "ingest/shapes")
    filled = with_defaults(seen.parameters, seen.parameter_openapi_schema or {})
    assert filled["pipeline"]["columns"].keys() > {"image", "texts", "keep"}
    ran(server, ingest, "ingest/shapes", **filled)
    assert f"older than {file.resolve()} (mining.num_negatives), and this run is of the file's values" in caplog.text
    filled["pipeline"]["mining"]["num_negatives"] = 3
    ran(server, ingest, "ingest/shapes", **filled)
    assert "(mining.num_negatives), and this run is of the form's values, not the file's" in caplog.text

    file.write_text(file.read_text().replace("shapes:", "dresses:"))
    gone = state_of(ran(server, ingest, "ingest/shapes"))
    assert "no pipeline 'shapes' any more" in str(gone.message)


def test_one_deployment_runs_on_machines_that_keep_file_and_root_in_other_places(
    server: SyncPrefectClient,
    tmp_path: Path,
    shapes: Path,
    write_pipelines: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    source = [{"kind": "jsonl", "path": "../pictures/captions.jsonl"}]
    (tmp_path / "here").mkdir()
    file = write_pipelines(tmp_path / "here", shapes, sources=source)
    (tmp_path / "pictures").symlink_to(shapes)
    deployed_from(file, ("ingest",), take_over=True)
    parameters = deployed(server, "ingest/shapes").parameters["pipeline"]
    assert (parameters["root"], parameters["sources"][0]["path"]) == ("stored", "../pictures/captions.jsonl")
    there = tmp_path / "mounted" / "here"
    there.mkdir(parents=True)
    shutil.move(file, there)
    (tmp_path / "pictures").rename(tmp_path / "mounted" / "pictures")
    monkeypatch.setenv("PAIRLOOM_FILE", str(there / "pipelines.yaml"))
    monkeypatch.setenv("PAIRLOOM_ROOT", str(tmp_path / "scratch"))

    ran(server, ingest, "ingest/shapes")
    assert [path.name for path in tmp_path.rglob("snapshots")] == ["snapshots"]
    assert (tmp_path / "scratch" / "shapes" / "snapshots").exists()


def test_a_night_says_which_pool_lacks_a_worker_and_gives_up_in_time(
    server: SyncPrefectClient, tmp_path: Path, shapes: Path, write_pipelines: Callable[..., Path]
) -> None:
    workers = {"default": "cpu", "mine": "idle", "wait_minutes": 0.001}
    deployed_from(write_pipelines(tmp_path, shapes, workers=workers), (NIGHT, "mine"), take_over=True)
    night = ran(server, nightly, "nightly/shapes")
    state = state_of(night)
    assert (state.is_failed(), state.name) == (True, "NoWorker")
    assert "work pool 'idle' has no worker: start one with `prefect worker start --pool idle`" in str(state.message)
    names = [each.name for each in server.read_flow_run_states(night.id)]
    assert names[-3:] == ["Running", "AwaitingWorker", "NoWorker"]
    (child,) = (each for each in server.read_flow_runs() if each.work_pool_name == "idle")
    assert state_of(child).is_cancelled(), "it would start when nobody waits for it any more"


def test_who_waits_for_a_run_outlasts_a_server_that_is_gone_for_a_while() -> None:
    run = FlowRun(flow_id=uuid4(), name="train-shapes", state=Running())
    api = f"http://127.0.0.1:{free_port()}/api"
    with temporary_settings({PREFECT_API_URL: api}), get_client(sync_client=True) as client:
        assert seen(client, run) is run


@pytest.mark.parametrize(("key", "value"), [("cron", "61 2 * * *"), ("cron", "nightly"), ("timezone", "Europe/Belin")])
def test_a_schedule_that_means_nothing_is_one_clear_line(
    key: str, value: str, tmp_path: Path, shapes: Path, write_pipelines: Callable[..., Path]
) -> None:
    pipeline = load_pipeline(write_pipelines(tmp_path, shapes, schedule=SCHEDULE | {key: value}))
    with pytest.raises(ValueError, match=key) as raised:
        plan_deployments([pipeline])
    said = str(raised.value)
    assert "'shapes'" in said
    assert value in said
    assert "\n" not in said


def test_deploy_without_a_server_says_what_to_set(pipeline: Pipeline) -> None:
    with temporary_settings(restore_defaults={PREFECT_API_URL}), pytest.raises(ValueError, match="PREFECT_API_URL"):
        deploy_pipelines([pipeline])


def test_a_night_started_through_the_api_ends_completed_and_released(worked: Worked) -> None:
    release = release_log(worked.pipeline.folder).current()
    assert release is not None
    assert release.rows == 60
    assert state_of(worked.night).is_completed()
    assert state_of(worked.night).name == "Completed"
    assert state_of(worked.night).message == "release 1: first release"


def test_training_placed_on_another_pool_is_a_run_of_its_own(worked: Worked) -> None:
    pools = {run.name: run.work_pool_name for run in worked.runs}
    assert pools == {"nightly-shapes": "cpu", "train-shapes": "gpu"}
    assert all(state_of(run).is_completed() for run in worked.runs)
    release = release_log(worked.pipeline.folder).current()
    assert release is not None
    model = worked.pipeline.folder / "models" / release.model_id / "pairloom.json"
    assert json.loads(model.read_bytes())["training"]["max_steps"] == 5, "the form's edit reached the other pool"


@pytest.mark.usefixtures("server")
def test_a_run_on_another_pool_whose_model_is_unfit_tells_the_night_so(
    pipeline: Pipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stages.ingest(pipeline)
    plan = decide(pipeline, snapshot_ref(pipeline))
    save_model(tmp_path / "built")
    weights = tmp_path / "built" / "open_clip_model.safetensors"
    save_file({name: np.full_like(tensor, np.nan) for name, tensor in load_file(weights).items()}, weights)
    model_id = ModelStore(pipeline.folder).adopt(tmp_path / "built")
    passed = Verdict(passed=True, model_id=model_id, metrics={}, champion_metrics={}, reasons=(), comparisons=())
    Run(pipeline.folder, plan.run_id).write(verdict_name(pipeline), passed)

    state = embed(pipeline, return_state=True)
    assert (state.is_failed(), state.name) == (True, "Unfit")
    ended = [FlowRun(flow_id=uuid4(), name="embed-shapes", state=each) for each in (state, Failed(message="no disk"))]
    monkeypatch.setattr("pairloom.flows.elsewhere.run_elsewhere", lambda *_: ended.pop(0))
    monkeypatch.setattr("pairloom.flows.placement.other_pool", lambda *_: "gpu")
    elsewhere = placed(embed_items, pipeline)
    with pytest.raises(UnfitModelError, match="image embeddings are not finite"):
        elsewhere(pipeline, plan.snapshot, model_id)
    with pytest.raises(RuntimeError, match=r"embed on work pool 'gpu' ended Failed\('no disk'\): see flow run embed"):
        elsewhere(pipeline, plan.snapshot, model_id)


def test_the_page_of_a_run_shows_how_far_its_stages_came(worked: Worked) -> None:
    full = {f"progress-{stage}-shapes": 100.0 for stage in ("ingest", "mine", "train", "embed", "evaluate")}
    assert full.items() <= worked.bars.items()
    assert set(worked.bars.values()) == {100.0}


@pytest.mark.usefixtures("worked")
def test_a_run_without_a_sign_of_life_is_crashed(server: SyncPrefectClient, silent: FlowRun) -> None:
    crashed = ended(server, silent)
    assert state_of(crashed).is_crashed()
    assert "No sign of life" in str(state_of(crashed).message)


def automations(server: SyncPrefectClient) -> dict[str, str]:
    """What the server does by itself: all that it says of it, by name."""
    return {each.name: each.model_dump_json() for each in server.read_automations()}


@pytest.mark.usefixtures("receiver")
def test_deploy_keeps_the_automations_that_the_file_asks_for(server: SyncPrefectClient, pipeline: Pipeline) -> None:
    asked = NotifyConfig(block="custom-webhook/ops", when=("released", "held"), hours_without_release=30)
    pipeline = pipeline.model_copy(update={"notify": (asked, NotifyConfig(block="webhook/hook", when=("failed",)))})
    deploy_of(pipeline, *TOLD)
    first = automations(server)
    names = {"released: custom-webhook/ops", "held: custom-webhook/ops", "no release: custom-webhook/ops"}
    names |= {"failed: webhook/hook"}
    assert {f"shapes: {name}" for name in names} | {silent_runs().name} <= first.keys()
    assert SECRET not in str(first)
    deploy_of(pipeline, *TOLD)
    assert automations(server) == first, "twice is the same as once"

    fewer = asked.model_copy(update={"when": ("held",), "hours_without_release": None})
    deploy_of(pipeline.model_copy(update={"notify": (fewer,)}), *TOLD)
    assert [name for name in automations(server) if name.startswith("shapes: ")] == ["shapes: held: custom-webhook/ops"]
    assert remove_automations(server, "shapes") == ["shapes: held: custom-webhook/ops"]
    missing = pipeline.model_copy(update={"notify": (NotifyConfig(block="slack-webhook/alerts"),)})
    with pytest.raises(ValueError, match="no block 'alerts' of type 'slack-webhook'"):
        deploy_of(missing, *TOLD)


def test_an_address_in_place_of_a_blocks_name_is_shown_to_nobody(
    tmp_path: Path, shapes: Path, write_pipelines: Callable[..., Path]
) -> None:
    block = f"https://hooks.example/services/{SECRET}"
    with pytest.raises(ValueError, match="like slack-webhook/alerts") as raised:
        load_pipeline(write_pipelines(tmp_path, shapes, notify=[{"block": block}]))
    assert SECRET not in str(raised.value)


def test_our_loggers_show_on_the_runs_page(worked: Worked) -> None:
    assert "train: waiting for work pool 'gpu'" in worked.logs
    assert any("samples/s" in message for message in worked.logs)


def test_the_report_is_an_artifact_whose_captions_are_markdown_text(worked: Worked) -> None:
    assert "data:image/webp;base64," in worked.report
    assert "## Map" in worked.report
    assert markdown_text(HOSTILE) in worked.report
    assert "<script" not in worked.report
    assert "](http" not in worked.report


def test_a_night_without_news_ends_completed_as_unchanged(worked: Worked) -> None:
    state = nightly(worked.pipeline, return_state=True)
    assert state.is_completed()
    assert (state.name, state.message) == ("Unchanged", "release 1: nothing new")


def test_what_is_stored_is_kept_in_order_from_the_forms(server: SyncPrefectClient, worked: Worked) -> None:
    deployed_from(worked.pipeline.root.parent / "pipelines.yaml", UPKEEP, take_over=True)
    with pytest.raises(PrefectHTTPStatusError, match=r"422|409"):
        start(server, "rollback/shapes", {"release": 0})
    back = state_of(ran(server, rollback, "rollback/shapes", release=1))
    assert (back.name, back.message) == ("Completed", "release 2: rolled back to release 1")
    assert str(state_of(ran(server, verify, "verify/shapes")).message).endswith("files are whole")
    assert "would go: " in str(state_of(ran(server, collect_garbage, "collect-garbage/shapes", dry_run=True)).message)
    part = next((worked.pipeline.folder / "corpus").glob("part-*.parquet"))
    whole = part.read_bytes()
    part.write_bytes(whole[:-1])
    damaged = state_of(ran(server, verify, "verify/shapes"))
    part.write_bytes(whole)
    assert damaged.is_failed()
    assert part.name in str(damaged.message)


def test_a_night_held_by_the_gate_ends_completed_as_held(server: SyncPrefectClient, pipeline: Pipeline) -> None:
    gate = pipeline.gate.model_copy(update={"min": {"text_to_image_recall@1": 1.01}})
    state = nightly(pipeline.model_copy(update={"gate": gate}), return_state=True)
    assert state.is_completed()
    assert state.name == "Held"
    assert "below its floor" in str(state.message)
    run = server.read_flow_run(state.state_details.flow_run_id)  # type: ignore[arg-type]  # a run's state has one
    assert state_of(run).name == "Held"


def test_a_night_asks_a_person_on_its_page_and_goes_on_with_the_answer_and_who_is_to_hear_of_it_does(
    server: SyncPrefectClient, pipeline: Pipeline, receiver: Receiver
) -> None:
    gate = pipeline.gate.model_copy(update={"approval": "person", "first": "none", "max_regression": 1.0})
    asked = NotifyConfig(block="custom-webhook/ops", when=("released", "waiting"), hours_without_release=0.003)
    notify = (asked, NotifyConfig(block="webhook/hook", when=("held",)))
    pipeline = pipeline.model_copy(update={"gate": gate, "workers": WorkersConfig(), "notify": notify})
    deploy_of(pipeline, *TOLD)

    asking = carried_on(server, start(server, "nightly/shapes"))
    assert state_of(asking).name == "Suspended"
    challenger, keys = require_waiting(pipeline.folder), state_of(asking).state_details.run_input_keyset
    assert keys is not None
    assert challenger.model_id in server.read_flow_run_input(asking.id, keys["description"])
    assert set(json.loads(server.read_flow_run_input(asking.id, keys["schema"]))["required"]) == {"answer", "by"}
    assert "data:image/webp;base64," in artifact(server, asking, "approval-shapes")
    another = carried_on(server, start(server, "nightly/shapes"))
    assert state_of(another).name == "Held", "one form is enough"
    assert challenger.model_id in str(state_of(another).message)

    server.resume_flow_run(asking.id, run_input={"answer": "approve", "by": HOSTILE})
    answered = carried_on(server, asking)
    release = release_log(pipeline.folder).current()
    assert release is not None
    assert (state_of(answered).name, release.model_id) == ("Completed", challenger.model_id)
    assert release.reason == f"first release; approved by {HOSTILE}"
    assert markdown_text(HOSTILE) in artifact(server, asking, "night-shapes")

    training = pipeline.training.model_copy(update={"max_steps": 2})
    deploy_of(pipeline.model_copy(update={"training": training}), *TOLD)
    asking = carried_on(server, start(server, "nightly/shapes"))
    assert state_of(asking).name == "Suspended"
    refuse_waiting(pipeline.folder, by="Grace")
    try_to_close_forms(pipeline.folder)
    closed = state_of(server.read_flow_run(asking.id))
    assert (closed.name, closed.is_completed()) == ("Held", True)
    assert str(closed.message).endswith("was refused by Grace")

    told = {name: wait_until(partial(receiver.heard, f"shapes: {name}")) for name in ("waiting", "released")}
    assert HOSTILE in told["released"]["said"]
    held = wait_until(partial(receiver.heard, "held"))
    assert (held["pipeline"], challenger.model_id in held["said"]) == ("shapes", True)
    assert held["run"] == str(another.id)
    late = wait_until(partial(receiver.heard, "shapes: no release"))
    assert "nothing was released for 0.003 hours" in late["said"]


def carried_on(server: SyncPrefectClient, run: FlowRun) -> FlowRun:
    """The run, once it has ended or stopped, by what a worker's process calls that knows of nothing but its id."""
    with contextlib.suppress(Pause):
        run_flow(nightly, flow_run=server.read_flow_run(run.id))
    return server.read_flow_run(run.id)


def artifact(server: SyncPrefectClient, run: FlowRun, key: str) -> str:
    """The newest artifact of a run under a key."""
    found = server.read_artifacts(sort=ArtifactSort.CREATED_DESC)
    return str(next(each.data for each in found if each.flow_run_id == run.id and each.key == key))


@pytest.mark.usefixtures("server")
def test_a_night_that_fails_says_why_in_one_line(
    tmp_path: Path, shapes: Path, write_pipelines: Callable[..., Path]
) -> None:
    source = {"kind": "jsonl", "path": str(shapes / "captions.jsonl"), "where": "1 = 0"}
    state = nightly(load_pipeline(write_pipelines(tmp_path, shapes, sources=[source])), return_state=True)
    assert state.is_failed()
    assert "has no items" in str(state.message)
    assert "\n" not in str(state.message)


def test_the_report_escapes_whatever_markdown_understands() -> None:
    night = Night.failed(HOSTILE, HOSTILE)
    metrics = {"text_to_image_recall@10": 0.5, f"text_to_image_recall@10/name={HOSTILE}": 0.25}
    row = ReasonCount(reason="where", outcome="filtered", rows=1_234, example=f"\x1b{HOSTILE}", remedy="Nothing.")
    told = {"metrics": metrics, "intervals": {"text_to_image_recall@10": (0.4, 0.6)}, "rejected": (row,)}
    said = markdown(night.model_copy(update={**told, "comparisons": (HOSTILE,)}), [])
    assert "1\\,234" in said
    assert "\x1b" not in said
    assert "<" not in said
    assert markdown_text("0.500 (0.400–0.600)") in said
    assert markdown_text(HOSTILE) in said
    assert f"\n- {markdown_text(HOSTILE)}\n" in said
    assert markdown_text("it's 5 < 6 & 1. *a*\n- b") == r"it\'s 5 &lt; 6 &amp; 1\. \*a\* \- b"


def test_serve_runs_server_and_stages_and_leaves_nothing_behind(
    tmp_path: Path, shapes: Path, write_pipelines: Callable[..., Path], prefect_database: Path
) -> None:
    def serve_until(ending: signal.Signals, status: int) -> None:
        home, log = tmp_path / ending.name / "home", tmp_path / ending.name / "serve.log"
        home.mkdir(parents=True)
        shutil.copy(prefect_database, home)
        file = write_pipelines(tmp_path / ending.name, shapes, schedule=SCHEDULE)
        environment = prefect_environment(home, PREFECT_RUNNER_POLL_FREQUENCY="1")
        command = ("-c", HEARS + CLI, "serve", "--file", str(file))
        with prefect_serving(*command, environment=environment, log=log) as (api, serving):
            with temporary_settings({PREFECT_API_URL: api}), get_client(sync_client=True) as client:
                wait_until(lambda: "Serving shapes" in log.read_text(), serving, pause=0.2)
                if ending == signal.SIGTERM:
                    (planned,) = (each for each in plan_file(file, ["shapes"]) if each.flow == "rollback")
                    form = deployed(client, "rollback/shapes").parameter_openapi_schema
                    assert form == content(planned)["parameter_openapi_schema"]
                    assert state_of(ended(client, start(client, "ingest/shapes"), serving)).is_completed()
            assert len(processes_with(home)) > 1
            serving.send_signal(ending)
            assert serving.wait() == status, log.read_text()
            left = processes_with(home)
            for process in left:
                process.kill()
            assert not left
        assert api.removesuffix("/api") in log.read_text()
        assert "Traceback" not in log.read_text()

    # Both at once: each waits for a server of its own.
    with ThreadPoolExecutor() as both:
        list(both.map(serve_until, (signal.SIGTERM, signal.SIGINT), (0, 130)))


def test_serve_on_a_port_that_is_taken_says_so(pipeline: Pipeline) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with (
            temporary_settings({PREFECT_SERVER_API_PORT: port}, restore_defaults={PREFECT_API_URL}),
            pytest.raises(RuntimeError, match=f"{port}.*PREFECT_API_URL"),
        ):
            serve(plan_deployments([pipeline]))


def is_deployed(client: SyncPrefectClient, name: str) -> bool:
    """Whether a deployment is registered."""
    with contextlib.suppress(ObjectNotFound):
        client.read_deployment_by_name(name)
        return True
    return False


def processes_with(home: Path) -> list[psutil.Process]:
    """Processes that were started, however indirectly, with this PREFECT_HOME."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.environ().get("PREFECT_HOME") == str(home):
                found.append(process)
    return found
