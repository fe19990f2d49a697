"""What tests share: a small collection of drawn shapes, a file of pipelines over it, and a real Prefect server."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from PIL import Image, ImageDraw

COLOURS = ("red", "green", "blue", "orange", "purple", "black")
SHAPES = {"square": 4, "triangle": 3, "pentagon": 5, "hexagon": 6, "circle": 60}
SIZES = {"small": 20, "large": 40}


@pytest.fixture(scope="session")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of 60 PNGs with captions.jsonl (id, image, text, group, colour, size). Shared: copy it to change it."""
    folder = tmp_path_factory.mktemp("shapes")
    rows = []
    for colour in COLOURS:
        for shape, corners in SHAPES.items():
            for size, radius in SIZES.items():
                name = f"{size}-{colour}-{shape}"
                picture = Image.new("RGB", (96, 96), "white")
                ImageDraw.Draw(picture).regular_polygon((48, 48, radius), corners, fill=colour)
                picture.save(folder / f"{name}.png")
                text = f"a {size} {colour} {shape}"
                group = f"{colour} {shape}"
                rows.append(
                    {"id": name, "image": f"{name}.png", "text": text, "group": group, "colour": colour, "size": radius}
                )
    (folder / "captions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return folder


@pytest.fixture(scope="session")
def write_pipelines() -> Callable[..., Path]:
    """Writes pipelines.yaml into a folder: one pipeline, `shapes`, over a collection; its nights take seconds."""

    def write(folder: Path, collection: Path, **blocks: Any) -> Path:
        pipeline = {
            "sources": [{"kind": "jsonl", "path": str(collection / "captions.jsonl")}],
            "columns": {"id": "id", "group": "group", "keep": {"colour": "string", "size": "int64"}},
            "ingest": {"max_side": 64, "workers": 1},
            "training": {"max_minutes": None, "max_steps": 6, "batch_size": 16, "threads": 1},
            "evaluation": {"slices": ["colour"]},
        } | blocks
        file = folder / "pipelines.yaml"
        file.write_text(yaml.safe_dump({"root": "stored", "pipelines": {"shapes": pipeline}}), encoding="utf-8")
        return file

    return write


def free_port() -> int:
    """A port of this machine that nothing listens on."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def prefect_environment(home: Path, **settings: str) -> dict[str, str]:
    """The environment of a Prefect process that shares nothing with the developer's own."""
    ours = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    return ours | {"PREFECT_HOME": str(home), "PREFECT_SERVER_ANALYTICS_ENABLED": "false", **settings}


@contextlib.contextmanager
def running(*command: str, environment: dict[str, str], log: Path) -> Iterator["subprocess.Popen[bytes]"]:
    """`python -m …` in a session of its own, which ends with this block."""
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", *command], env=environment, stdout=output, stderr=output, start_new_session=True
        )
    try:
        yield process
    finally:
        for end in (signal.SIGTERM, signal.SIGKILL):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, end)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(timeout=15)


def wait_for_server(api: str, *, seconds: float = 120) -> None:
    """Return once a Prefect server answers."""
    give_up = time.monotonic() + seconds
    while time.monotonic() < give_up:
        with contextlib.suppress(urllib.error.URLError, OSError), urllib.request.urlopen(f"{api}/health"):
            return
        time.sleep(0.2)
    raise TimeoutError(f"no Prefect server at {api} after {seconds} seconds")


@pytest.fixture(scope="session")
def prefect_api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The API address of a real Prefect server."""
    home, port = tmp_path_factory.mktemp("prefect"), free_port()
    api = f"http://127.0.0.1:{port}/api"
    command = ("prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port))
    with running(*command, environment=prefect_environment(home), log=home / "server.log"):
        wait_for_server(api)
        yield api
