"""The services of docs/deploy/compose.yaml as plain processes, and a night on them: for machines without Docker.

    python -m benchmarks.one_machine

Postgres is Debian's (`apt-get install postgresql`). Commands, environments and health checks are read from
compose.yaml, with this machine's ports for the containers' names. A night of a tiny collection is started on the
server, run by the worker, and its release asked on the page; with `--gpu` a second worker, of the pool `gpu`, trains
and embeds.
"""

import contextlib
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import psutil
import yaml

from benchmarks.tiny_nights import Nights

HERE = Path(__file__).parents[1]
COMPOSE = HERE / "docs" / "deploy" / "compose.yaml"
SECRETS = {"PAIRLOOM_DATABASE_PASSWORD": "only-for-this-while", "PAIRLOOM_WEB_TOKEN": "a-token-of-this-while"}
PROGRAMS = {
    "prefect": [sys.executable, "-m", "prefect"],
    "pairloom": [sys.executable, "-c", "from pairloom.flows.start import main; main()"],
    "python": [sys.executable],
}
ENDS = ("COMPLETED", "FAILED", "CRASHED", "CANCELLED")
MINUTES = 30
"""How long a service may take to end."""


class Machine:
    """What stands for the containers: ports, a folder for /srv/pairloom, and processes that end together."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.services: dict[str, Any] = yaml.safe_load(COMPOSE.read_text(encoding="utf-8"))["services"]
        self.ports = {each: free_port() for each in ("database", "server", "web", "cpu", "gpu")}
        self.processes: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, name: str) -> None:
        """Start a service, with what it says in a file of its name."""
        (self.folder / "home" / name).mkdir(parents=True)
        program, *arguments = [self._here(name, word) for word in self.services[name]["command"]]
        with (self.folder / f"{name}.log").open("wb") as log:
            self.processes[name] = subprocess.Popen(
                [*PROGRAMS[program], *arguments],
                cwd=self.folder / "srv",
                env=self._environment(name),
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def healthy(self, name: str) -> None:
        """Return once a service's own health check passes. Raises RuntimeError where the service ends before."""
        kind, program, *arguments = [self._here(name, word) for word in self.services[name]["healthcheck"]["test"]]
        assert (kind, program) == ("CMD", "python"), "these checks are programs of Python"
        while subprocess.run([sys.executable, *arguments], capture_output=True, check=False).returncode:
            if self.processes[name].poll() is not None:
                raise RuntimeError(f"{name} ended: {(self.folder / f'{name}.log').read_text()[-2000:]}")
            time.sleep(1)

    def ended(self, name: str) -> None:
        """Return once a service has ended well. Raises RuntimeError where it failed."""
        if self.processes[name].wait(60 * MINUTES):
            raise RuntimeError(f"{name} failed: {(self.folder / f'{name}.log').read_text()[-2000:]}")

    def stop(self) -> None:
        """End all that was started."""
        for process in reversed(self.processes.values()):
            with contextlib.suppress(psutil.NoSuchProcess):
                own = psutil.Process(process.pid)
                tree = [*own.children(recursive=True), own]
                process.terminate()
                for each in psutil.wait_procs(tree, timeout=20)[1]:
                    each.kill()
            process.wait()

    def ask(self, path: str, body: Mapping[str, Any] | None = None, *, web: bool = False) -> Any:
        """The answer of the server's API, or of the page's."""
        base = f"http://127.0.0.1:{self.ports['web']}" if web else f"http://127.0.0.1:{self.ports['server']}/api"
        headers = {"Authorization": f"Bearer {SECRETS['PAIRLOOM_WEB_TOKEN']}"} if web else {}
        data = None if body is None else json.dumps(body).encode()
        asked = urllib.request.Request(base + path, data, {"Content-Type": "application/json", **headers})
        with urllib.request.urlopen(asked) as answer:
            return json.load(answer)

    def _environment(self, name: str) -> dict[str, str]:
        ours = {key: value for key, value in os.environ.items() if not key.startswith("PREFECT_")}
        said = {key: self._here(name, value) for key, value in self.services[name].get("environment", {}).items()}
        paths = os.pathsep.join(filter(None, (str(HERE), os.environ.get("PYTHONPATH"))))
        # A container has these two to itself.
        own = {"PREFECT_HOME": str(self.folder / "home" / name)}
        own |= {"PREFECT_WORKER_WEBSERVER_PORT": str(self.ports[name])} if name in ("cpu", "gpu") else {}
        return ours | said | own | {"PYTHONPATH": paths, "PREFECT_SERVER_ANALYTICS_ENABLED": "false"}

    def _here(self, name: str, word: str) -> str:
        """What a word of compose.yaml is on this machine."""
        word = re.sub(r"\$\{(\w+)[^}]*\}", lambda found: SECRETS[found[1]], word)
        places = {
            "@database:5432": f"@127.0.0.1:{self.ports['database']}",
            "server:4200": f"127.0.0.1:{self.ports['server']}",
            "4200": str(self.ports["server"]),
            "8600": str(self.ports["web"]),
            "8080": str(self.ports.get(name, 8080)),
            "0.0.0.0": "127.0.0.1",
        }
        for container, here in places.items():
            word = word.replace(container, here)
        return word


@contextlib.contextmanager
def postgres(folder: Path, port: int, said: Mapping[str, str]) -> Iterator[None]:
    """A Postgres as compose.yaml's `environment` asks for it, in a cluster of its own."""
    if (found := shutil.which("initdb") or shutil.which("initdb", path="/usr/lib/postgresql/15/bin")) is None:
        sys.exit("Postgres isn't installed: apt-get install postgresql")
    programs, data, password = Path(found).resolve().parent, folder / "database", folder / "password"
    # It refuses to run as root.
    user = "postgres" if os.geteuid() == 0 else None
    data.mkdir()
    password.write_text(SECRETS["PAIRLOOM_DATABASE_PASSWORD"])
    for path in (data, password):
        if user:
            shutil.chown(path, user)
    as_user: dict[str, Any] = {"user": user, "check": True, "stdout": subprocess.DEVNULL, "cwd": folder}
    role = said["POSTGRES_USER"]
    options = ["--username", role, "--pwfile", str(password), "--auth", "scram-sha-256"]
    subprocess.run([programs / "initdb", "--pgdata", data, *options], **as_user)
    address = f"-k {data} -h 127.0.0.1 -p {port}"
    subprocess.run([programs / "pg_ctl", "-D", data, "-l", data / "log", "-w", "-o", address, "start"], **as_user)
    try:
        environment = {**os.environ, "PGPASSWORD": SECRETS["PAIRLOOM_DATABASE_PASSWORD"]}
        to = ["--host", "127.0.0.1", "--port", str(port), "--username", role]
        subprocess.run([programs / "createdb", *to, said["POSTGRES_DB"]], env=environment, **as_user)
        yield
    finally:
        subprocess.run([programs / "pg_ctl", "-D", data, "-m", "fast", "stop"], **as_user)


def run_night(machine: Machine, names: tuple[str, ...]) -> None:
    """Start the services in the order of their `depends_on`, run a night on them, and ask the page."""
    began = time.monotonic()

    def tell(what: str) -> None:
        sys.stdout.write(f"{time.monotonic() - began:6.0f} s  {what}\n")
        sys.stdout.flush()

    machine.start("server")
    machine.healthy("server")
    tell("the server answers, on Postgres")
    machine.start("deploy")
    machine.ended("deploy")
    tell("the pipelines are registered")
    for name in names:
        machine.start(name)
    for name in (each for each in names if each != "web"):
        machine.healthy(name)
        tell(f"worker {name} is healthy")
    deployment = machine.ask("/deployments/name/nightly/tiny")["id"]
    run = machine.ask(f"/deployments/{deployment}/create_flow_run", {})["id"]
    while (state := machine.ask(f"/flow_runs/{run}")["state"])["type"] not in ENDS:
        time.sleep(1)
    tell(f"the night ended {state['name']}: {state['message']}")
    machine.healthy("web")
    tell(f"the page serves release {machine.ask('/health', web=True)['release']}")
    if state["name"] != "Completed":
        sys.exit(1)


def free_port() -> int:
    """A port that nothing listens on."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return int(taken.getsockname()[1])


def main() -> None:
    """Prints when each service was ready and how the night ended; exits with 1 where it released nothing."""
    gpu = "--gpu" in sys.argv
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        nights = Nights(folder / "srv")
        nights.prepare(1)
        if gpu:
            # No GPU is needed for that: the worker of this name takes over the training and the embedding.
            nights.changes |= {"workers": {"default": "cpu", "train": "gpu", "embed": "gpu"}}
        assert nights.file.exists()
        machine = Machine(folder)
        with postgres(folder, machine.ports["database"], machine.services["database"]["environment"]):
            try:
                run_night(machine, ("cpu", "gpu", "web") if gpu else ("cpu", "web"))
            finally:
                machine.stop()


if __name__ == "__main__":
    main()
