"""A Prefect server and process workers of a benchmark's own, which end with it."""

import contextlib
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import psutil

T = TypeVar("T")

START_SECONDS = 300


class Prefect:
    """A server in a folder, and the workers that poll it."""

    def __init__(self, folder: Path, **settings: str) -> None:
        with socket.create_server(("127.0.0.1", 0)) as taken:
            self.port = int(taken.getsockname()[1])
        self.folder = folder
        self.address = f"http://127.0.0.1:{self.port}"
        self.api = f"{self.address}/api"
        ours = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
        own = {"PREFECT_HOME": str(folder / "prefect"), "PREFECT_SERVER_ANALYTICS_ENABLED": "false"}
        self.environment = ours | own | {"PREFECT_PROFILES_PATH": os.devnull, "PREFECT_API_URL": self.api} | settings
        self._processes: dict[str, subprocess.Popen[bytes]] = {}

    @property
    def log(self) -> str:
        """What the server and the workers said."""
        return "".join(file.read_text(errors="replace") for file in sorted(self.folder.glob("*.log")))

    def start(self, name: str, *arguments: str) -> "subprocess.Popen[bytes]":
        """`prefect …` in a session of its own; its words go to `<name>.log`."""
        with (self.folder / f"{name}.log").open("ab") as said:
            self._processes[name] = subprocess.Popen(
                [sys.executable, "-m", "prefect", *arguments],
                env=self.environment,
                stdout=said,
                stderr=said,
                start_new_session=True,
                cwd=self.folder,
            )
        return self._processes[name]

    def start_worker(self, pool: str) -> "subprocess.Popen[bytes]":
        """A worker of a pool of kind process."""
        return self.start(f"worker-{pool}", "worker", "start", "--pool", pool, "--type", "process")

    def process(self, name: str) -> "subprocess.Popen[bytes]":
        """One of them."""
        return self._processes[name]

    def kill(self, name: str) -> None:
        """SIGKILL to one of them, and to all that it started."""
        family = self._family(self._processes.pop(name))
        for process in family:
            with contextlib.suppress(psutil.Error):
                process.kill()
        psutil.wait_procs(family, timeout=30)

    def _family(self, process: "subprocess.Popen[bytes]") -> list[psutil.Process]:
        with contextlib.suppress(psutil.Error):
            first = psutil.Process(process.pid)
            return [first, *first.children(recursive=True)]
        return []

    @contextlib.contextmanager
    def running(self) -> Iterator["Prefect"]:
        """The server, for as long as the block."""
        self.folder.mkdir(parents=True, exist_ok=True)
        try:
            server = self.start("server", "server", "start", "--host", "127.0.0.1", "--port", str(self.port))
            wait(lambda: answers(f"{self.api}/health") or server.poll() is not None, START_SECONDS)
            if server.poll() is not None:
                raise RuntimeError(f"no Prefect server could be started: {self.log}")
            yield self
        finally:
            for name in reversed(list(self._processes)):
                self.kill(name)


def wait(condition: Callable[[], T], seconds: float, *, pause: float = 0.05) -> T:
    """What `condition` returns, once that is true; RuntimeError where it is not within so many seconds."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if found := condition():
            return found
        time.sleep(pause)
    raise RuntimeError(f"not within {seconds:.0f} s: {getattr(condition, '__doc__', None) or condition}")


def answers(address: str) -> bool:
    """Whether a server is there."""
    with contextlib.suppress(OSError):
        return bool(urllib.request.urlopen(address).status == 200)
    return False
