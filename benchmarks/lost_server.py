"""A Prefect server dies amid the training of a night that it shows: what the night has done is right, and it goes on.

    python -m benchmarks.lost_server

`pairloom run` of a tiny night (`benchmarks/tiny_nights.py`) with a longer training, beside a server of its own, which
gets SIGKILL once there is a checkpoint. Then the night is run again without a server; all must be as after an
undisturbed night.
"""

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

from benchmarks.tiny_nights import Content, Nights, content
from benchmarks.undisturbed import import_all, in_child


def killed_server(folder: Path) -> None:
    """A Prefect server dies amid the training of a night that it shows."""
    nights = Nights(folder / "server")
    nights.prepare(1)
    nights.changes = {"training": {**nights.pipeline.training.model_dump(), "max_steps": 200}}
    undisturbed = in_child(run_to_content, nights)
    shutil.rmtree(nights.stored)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
    ours = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    environment = ours | {"PREFECT_HOME": str(folder / "prefect"), "PREFECT_SERVER_ANALYTICS_ENABLED": "false"}
    api = f"http://127.0.0.1:{port}/api"
    serve = [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", port]
    server = subprocess.Popen(serve, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while not answers(f"{api}/health"):
        time.sleep(0.5)
    program = "from pairloom.flows.start import main; main()"
    run = [sys.executable, "-c", program, "run", "--json", "--file", str(nights.file)]
    night = subprocess.Popen(run, env=environment | {"PREFECT_API_URL": api}, stdout=subprocess.PIPE)
    while not list(nights.stored.glob("runs/*/training/checkpoints/step-*[0-9]")) and night.poll() is None:
        time.sleep(0.01)
    server.kill()
    server.wait()
    said, _ = night.communicate()
    sys.stdout.write(f"the night ended with status {night.returncode}: {said.decode()[:300]}\n")
    again = subprocess.run(run, env=environment, stdout=subprocess.PIPE, check=False)
    wrong = undisturbed.differences(in_child(content, nights.stored))
    sys.stdout.write(f"the rerun without a server ended with status {again.returncode}; other: {', '.join(wrong)}\n")
    sys.exit(bool(wrong))


def run_to_content(nights: Nights) -> Content:
    """A night, and what it leaves."""
    nights.run()
    return content(nights.stored)


def answers(address: str) -> bool:
    """Whether a server is there."""
    with contextlib.suppress(OSError):
        return bool(urllib.request.urlopen(address).status == 200)
    return False


def main() -> None:
    """Prints how the night ended; exits with 1 where the rerun leaves anything else than an undisturbed night."""
    with tempfile.TemporaryDirectory() as name:
        import_all(Path(name) / "once")
        killed_server(Path(name))


if __name__ == "__main__":
    main()
