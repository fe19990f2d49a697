"""An S3 server of this machine whose answers can be made to fail: moto's, in a process of its own.

    python -m benchmarks.object_server 5555 < some pipe, with whose end it ends

It counts requests, and spoils some of them: see `Fault`.
"""

import json
import logging
import os
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

BUCKET = "pairs"


@dataclass(frozen=True)
class Fault:
    """What happens to every n-th request of a kind."""

    kind: Literal["refused", "lost", "slow"]
    """It is not done, and answered with an error; done, and answered with one; done, and answered late."""
    every: int = 1
    first: int = 1_000_000
    """No more than the first so many of them."""
    method: str = ""
    having: str = ""
    """In the path of the request."""
    seconds: float = 0
    """How late."""
    status: str = "500 Internal Server Error"
    code: str = "InternalError"

    def meets(self, method: str, path: str) -> bool:
        return self.method in ("", method) and self.having in path


class ObjectServer:
    """A running server, as tests see it."""

    def __init__(self, port: int) -> None:
        self.address = f"http://127.0.0.1:{port}"
        self.environment = {
            "AWS_ENDPOINT_URL": self.address,
            "AWS_ACCESS_KEY_ID": "someone",
            "AWS_SECRET_ACCESS_KEY": "a-secret-of-tests",
            "AWS_REGION": "us-east-1",
        }

    def spoil(self, *faults: Fault) -> None:
        """Have these happen from now on, and no others; counting begins anew."""
        self._ask("/-/faults", json.dumps([asdict(each) for each in faults]).encode())

    def requests(self) -> list[str]:
        """Method and path of the requests since then, but for those of this class."""
        found: list[str] = json.loads(self._ask("/-/requests"))
        return found

    def cpu_seconds(self) -> float:
        """What it has used so far."""
        return float(self._ask("/-/cpu"))

    def is_up(self) -> bool:
        """Whether it answers."""
        try:
            return bool(self._ask("/-/requests"))
        except OSError:
            return False

    def _ask(self, path: str, content: bytes | None = None) -> bytes:
        with urllib.request.urlopen(f"{self.address}{path}", content) as answer:
            return bytes(answer.read())


@contextmanager
def object_server(port: int, log: Path) -> Iterator[ObjectServer]:
    """A server at a port, with one empty bucket, `BUCKET`."""
    server = ObjectServer(port)
    command = [sys.executable, "-m", "benchmarks.object_server", str(port)]
    here = str(Path(__file__).parents[1])
    with log.open("wb") as said:
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=said, stderr=said, cwd=here)
    assert process.stdin is not None
    try:
        while not server.is_up():
            assert process.poll() is None, log.read_text(errors="replace")
            time.sleep(0.1)
        urllib.request.urlopen(urllib.request.Request(f"{server.address}/{BUCKET}", method="PUT")).close()
        yield server
    finally:
        process.stdin.close()
        process.wait()


class _Spoiled:
    """moto's application with faults before and after it."""

    def __init__(self, application: Callable[..., Iterable[bytes]]) -> None:
        self._application = application
        self._lock = threading.Lock()
        self._faults: list[tuple[Fault, list[int]]] = []
        self._requests: list[str] = []

    def __call__(self, environment: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        method, path = environment["REQUEST_METHOD"], environment["PATH_INFO"]
        if path.startswith("/-/"):
            return self._told(environment, start, path)
        if query := environment.get("QUERY_STRING"):
            path += f"?{query}"
        fault = self._due(method, path)
        if fault and fault.kind == "refused":
            _content(environment)
            return _failure(start, fault)
        if fault is None:
            return self._application(environment, start)
        answer = list(self._application(environment, start if fault.kind == "slow" else lambda *_: lambda _: None))
        time.sleep(fault.seconds)
        return answer if fault.kind == "slow" else _failure(start, fault)

    def _due(self, method: str, path: str) -> Fault | None:
        with self._lock:
            self._requests.append(f"{method} {path}")
            for fault, met in self._faults:
                if fault.meets(method, path):
                    met[0] += 1
                    if met[0] % fault.every == 0 and met[0] // fault.every <= fault.first:
                        return fault
        return None

    def _told(self, environment: dict[str, Any], start: Callable[..., Any], path: str) -> Iterable[bytes]:
        with self._lock:
            content = json.dumps(sum(os.times()[:2]) if path == "/-/cpu" else self._requests).encode()
            if path == "/-/faults":
                wanted = json.loads(_content(environment))
                self._faults, self._requests = [(Fault(**each), [0]) for each in wanted], []
        start("200 OK", [("Content-Length", str(len(content)))])
        return [content]


def _content(environment: dict[str, Any]) -> bytes:
    return bytes(environment["wsgi.input"].read(int(environment.get("CONTENT_LENGTH") or 0)))


def _failure(start: Callable[..., Any], fault: Fault) -> Iterable[bytes]:
    content = f"<Error><Code>{fault.code}</Code><Message>key someone, a-secret-of-tests</Message></Error>".encode()
    start(fault.status, [("Content-Type", "application/xml"), ("Content-Length", str(len(content)))])
    return [content]


def main(port: int) -> None:
    """Serve until standard input ends."""
    from moto.moto_server.werkzeug_app import DomainDispatcherApplication, MotoRequestHandler, create_backend_app
    from werkzeug.serving import make_server

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    application = DomainDispatcherApplication(create_backend_app)
    server = make_server("127.0.0.1", port, _Spoiled(application), True, request_handler=MotoRequestHandler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    sys.stdin.buffer.read()


if __name__ == "__main__":
    main(int(sys.argv[1]))
