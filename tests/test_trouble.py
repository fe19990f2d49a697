"""The pages that an operator follows: their commands run, on a pipeline that has what they name."""

import json
import re
import shlex
import shutil
import subprocess
import warnings
from datetime import date
from typing import Any

import pytest
import yaml
from operators_pages import DOCS, PAGES, PROJECT, commands
from typer.testing import CliRunner

from benchmarks.tiny_nights import Nights
from pairloom.flows.cli import app
from pairloom.flows.config import load_pipeline

COMPOSE: dict[str, Any] = yaml.safe_load((DOCS / "deploy" / "compose.yaml").read_text("utf-8"))
ELSEWHERE = {"deploy", "serve"}
"""Commands of ours that need a server: tests/test_deploy.py runs them."""


@pytest.fixture(scope="module")
def nights(tmp_path_factory: pytest.TempPathFactory) -> Nights:
    """Two nights of `tiny`, and the same rows as exports of three past days."""
    nights = Nights(tmp_path_factory.mktemp("operated"))
    for number in (1, 2):
        nights.prepare(number)
        nights.run()
    nights.keep("two nights")
    label = nights.pipeline.sources[0].label
    for day in (1, 2, 3):
        shutil.copy2(nights.folder / "captions.jsonl", nights.folder / f"{date(2026, 11, day)}.jsonl")
    dated = {"kind": "jsonl", "path": str(nights.folder / "{date}.jsonl"), "name": label}
    document = yaml.safe_load(nights.file.read_text("utf-8"))
    document["pipelines"]["tiny"]["sources"] = [dated]
    (nights.folder / "dated.yaml").write_text(yaml.safe_dump(document), encoding="utf-8")
    return nights


@pytest.mark.parametrize("page", PAGES)
def test_every_command_of_the_page_runs(page: str, nights: Nights) -> None:
    nights.restore("two nights")
    found = commands(page)
    assert found
    for line in dict.fromkeys(found) if page == "trouble.md" else found:
        here = line.replace("/srv/pairloom/pipelines.yaml", str(nights.folder / "new.yaml"))
        here = here.replace("/srv/pairloom", str(nights.folder)).replace("/backup", str(nights.folder / "backup"))
        here = re.sub(r"\bshop\b", "tiny", here)
        program, *arguments = shlex.split(here)
        arguments = [{"41": "1", "42": "2"}.get(word, word) for word in arguments]
        match program.rpartition("/")[2]:
            case "pairloom":
                run_ours(nights, line, arguments)
            case "make":
                subprocess.run(["make", "--dry-run", *arguments], cwd=PROJECT, check=True, capture_output=True)
            case "cp" | "mkdir":
                if arguments[-1].endswith("stored/"):
                    shutil.rmtree(nights.stored)  # what a backup is for
                if "[!rs]*" in line:
                    kept = {path.name for path in nights.stored.glob("[rs]*")}
                    assert kept <= {"releases", "snapshots", "runs"}
                subprocess.run(["sh", "-c", here], check=True)
            case "docker":
                check_compose(arguments)
            case "prefect":
                check_prefect(arguments)
            case "ray":
                check_ray(arguments)
            case _:
                assert program == "export", line


def run_ours(nights: Nights, line: str, arguments: list[str]) -> None:
    if arguments[0] in ELSEWHERE and "--check" not in arguments:
        return
    file = nights.folder / "dated.yaml" if "--as-of" in arguments else nights.file
    options = [] if arguments[0] in ("init", "--version") else ["--file", str(file)]
    if "engine.kind=ray" in arguments:
        # tests/test_ray.py runs nights on a cluster; here the command alone is tried, where there is none.
        nowhere = ["--set", "engine.address=127.0.0.1:1"]
        result = CliRunner().invoke(app, [*arguments, *options, *nowhere])
        assert "no Ray cluster can be reached at 127.0.0.1:1" in result.output
        return
    result = CliRunner().invoke(app, [*arguments, *options])
    assert result.exit_code == 0, f"{line}: {result.output}"


def check_compose(arguments: list[str]) -> None:
    """That the services and profiles that a command names are there; no daemon is asked."""
    compose, *rest = arguments
    assert compose == "compose"
    options = [word for word in rest if word.startswith("--")]
    words = [word for word in rest if not word.startswith("--")]
    profiles = {each for service in COMPOSE["services"].values() for each in service.get("profiles", ())}
    if "--profile" in options:
        assert words.pop(0) in profiles
    action, *services = words
    assert action in ("up", "ps", "run", "logs", "down")
    named = services[:1] if action == "run" else services
    assert set(named) <= COMPOSE["services"].keys()
    if action == "run":
        assert services[1] == "pairloom"


def check_prefect(arguments: list[str]) -> None:
    """That Prefect understands a command; tests/test_deploy.py runs them on a server, and servers and workers."""
    from prefect.cli._app import _app as prefect

    prefect.parse_args(arguments, exit_on_error=False, print_error=False)


def check_ray(arguments: list[str]) -> None:
    """That Ray understands a command; tests/test_ray.py runs clusters."""
    with warnings.catch_warnings(action="ignore"):
        from ray.scripts.scripts import cli as ray

    ray.commands[arguments[0]].make_context(arguments[0], arguments[1:])


def test_the_compose_file_is_whole() -> None:
    services = COMPOSE["services"]
    text = (DOCS / "deploy" / "compose.yaml").read_text("utf-8")
    wanted = set(re.findall(r"\$\{(\w+)", text))
    named = set(re.findall(r"^(\w+)=", (DOCS / "deploy" / "env.example").read_text("utf-8"), re.MULTILINE))
    assert wanted == named
    for name, service in services.items():
        for other, condition in service.get("depends_on", {}).items():
            healthy = condition["condition"] == "service_healthy"
            assert not healthy or "healthcheck" in services[other], name
        for volume in service.get("volumes", ()):
            source = volume.partition(":")[0]
            assert source.startswith((".", "$")) or source in COMPOSE["volumes"], volume
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", ()))
        assert "privileged" not in service
        command = service.get("command", [""])
        if command[0] == "pairloom":
            assert CliRunner().invoke(app, [command[1], "--help"]).exit_code == 0
        elif command[0] == "prefect":
            check_prefect(command[1:])
    pools = {service["command"][4] for service in services.values() if "worker" in service.get("command", ())}
    assert pools == {"cpu", "gpu"}
    assert load_pipeline(DOCS / "deploy" / "pipelines.yaml").workers.default == "cpu"


@pytest.mark.parametrize("kind", ["process", "docker", "kubernetes"])
def test_the_base_job_templates_have_what_they_name_and_name_what_they_have(kind: str) -> None:
    from prefect.utilities.schema_tools import validate

    template = json.loads((DOCS / "deploy" / "pools" / f"{kind}.json").read_bytes())
    configuration, variables = json.dumps(template["job_configuration"]), template["variables"]
    properties = variables["properties"]
    assert set(re.findall(r"{{ (\w+) }}", configuration)) == properties.keys()
    assert all(each["title"] and each["description"].endswith(".") for each in properties.values())
    defaults = {name: each["default"] for name, each in properties.items() if "default" in each}
    assert not validate(defaults, variables)
    # What the file and the root are called is what is mounted, and where the image has room for them.
    places = properties["env"]["default"]
    assert places.keys() == {"PAIRLOOM_FILE", "PAIRLOOM_ROOT"}
    if kind != "process":
        for place in places.values():
            assert place in configuration + json.dumps(defaults)
            assert place.startswith("/srv/pairloom/")


def test_the_dockerfile_copies_what_is_there_and_ends_as_nobody_in_particular() -> None:
    text = (DOCS / "deploy" / "Dockerfile").read_text("utf-8")
    ignored = (DOCS / "deploy" / "Dockerfile.dockerignore").read_text("utf-8").split()
    lines = [line for line in text.replace("\\\n", " ").splitlines() if line and not line.startswith("#")]
    stages = re.findall(r"^FROM (\S+) AS (\w+)$", text, re.MULTILINE)
    assert [name for _, name in stages] == ["build", "cpu", "cuda"]
    assert all(":" in base or base in ("build", "cpu") for base, _ in stages)
    # Nothing is fetched but by the lock: no address, no ADD.
    assert not re.search(r"https?://|^ADD ", "\n".join(lines), re.MULTILINE)
    copied = [word for line in lines if re.match(r"COPY (?!--from)", line) for word in line.split()[1:-1]]
    for name in copied:
        assert (PROJECT / name).exists(), name
        assert f"!{name}" in ignored
    packaged = {"flows", "models", "search", "storage", "tasks", "pairloom"}
    assert packaged < set(copied)
    assert "--require-hashes -r requirements.lock" in text
    users = [line.split()[1] for line in lines if line.startswith("USER ")]
    assert users
    assert all(user.isdigit() and user != "0" for user in users)
    assert any(line.startswith("HEALTHCHECK ") for line in lines)
