"""A Prefect server of our own, for as long as `pairloom serve` runs."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import BinaryIO, NoReturn

from prefect.settings import PREFECT_API_URL, PREFECT_SERVER_API_HOST, PREFECT_SERVER_API_PORT, temporary_settings

START_SECONDS = 180
STOP_SECONDS = 20


@contextlib.contextmanager
def prefect_server() -> Iterator[str]:
    """The address of the configured Prefect server, or of a local one that ends with this block."""
    if configured := PREFECT_API_URL.value():
        yield configured.removesuffix("/api")
        return
    host, port = PREFECT_SERVER_API_HOST.value(), PREFECT_SERVER_API_PORT.value()
    address = f"http://{host}:{port}"
    _check_port(host, port)
    # An interrupted start must stop the server, too.
    previous = signal.signal(signal.SIGTERM, _exit)
    command = [sys.executable, "-m", "prefect", "server", "start", "--host", host, "--port", str(port)]
    with tempfile.TemporaryFile() as log:
        # A session of its own: Ctrl-C reaches us alone, and runs still find a server while they end.
        process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
        try:
            _wait(process, address, log)
            with temporary_settings({PREFECT_API_URL: f"{address}/api"}):
                yield address
        finally:
            _stop(process)
            signal.signal(signal.SIGTERM, previous)


def _check_port(host: str, port: int) -> None:
    try:
        socket.create_server((host, port)).close()
    except OSError as error:
        raise RuntimeError(
            f"no Prefect server can listen on {host}:{port}: {error.strerror}. If one runs there, set "
            f"PREFECT_API_URL=http://{host}:{port}/api to use it; else choose PREFECT_SERVER_API_PORT"
        ) from error


def _wait(process: "subprocess.Popen[bytes]", address: str, log: BinaryIO) -> None:
    give_up = time.monotonic() + START_SECONDS
    while time.monotonic() < give_up:
        if process.poll() is not None:
            log.seek(0)
            said = log.read().decode(errors="replace").strip().splitlines()[-1:]
            raise RuntimeError(f"the Prefect server ended with status {process.returncode}: {' '.join(said)}")
        with contextlib.suppress(urllib.error.URLError, OSError), urllib.request.urlopen(f"{address}/api/health"):
            return
        time.sleep(0.5)
    raise RuntimeError(f"the Prefect server did not answer at {address} within {START_SECONDS} seconds")


def _stop(process: "subprocess.Popen[bytes]") -> None:
    """End the server and everything that it started."""
    for end in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, end)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=STOP_SECONDS)


def _exit(_signal: int, _frame: object) -> NoReturn:
    sys.exit(0)
