"""What tests share: a small collection of drawn shapes, a file of pipelines over it, and a real Prefect server."""

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml
from child_processes import running, wait_until
from PIL import Image, ImageDraw
from warm_python import DECODER, REHEARSAL, warm_python

from pairloom.storage.images import decoding

# As many workers as cores run the tests: one each. NumPy and torch, here and in child processes, read this at import.
os.environ.setdefault("OMP_NUM_THREADS", "1")
COLD_DECODER = decoding.COMMAND
# The developer's own Prefect server and profile are none of the tests' business.
for name in [each for each in os.environ if each.startswith("PREFECT_")]:
    del os.environ[name]
os.environ["PREFECT_PROFILES_PATH"] = os.devnull

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
def warm_rehearsals(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Nights of this process start their rehearsals without waiting seconds for what these import."""
    from pairloom.flows import rehearsal

    with warm_python(tmp_path_factory.mktemp("warm"), REHEARSAL) as command, pytest.MonkeyPatch.context() as patch:
        patch.setattr(rehearsal, "COMMAND", command)
        yield


@pytest.fixture(scope="session")
def warm_decoders(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The same for the processes that decode images."""
    with warm_python(tmp_path_factory.mktemp("warm"), DECODER) as command, pytest.MonkeyPatch.context() as patch:
        patch.setattr(decoding, "COMMAND", command)
        yield


@pytest.fixture(scope="module")
def cold_decoders() -> Iterator[None]:
    """Images are decoded by processes that start as they do for users, whatever ran before."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(decoding, "COMMAND", COLD_DECODER)
        yield


@pytest.fixture(scope="session")
def write_pipelines(warm_rehearsals: None, warm_decoders: None) -> Callable[..., Path]:  # noqa: ARG001  # for nights
    """Writes pipelines.yaml into a folder: one pipeline, `shapes`, over a collection; its nights take seconds."""

    def write(folder: Path, collection: Path, **blocks: Any) -> Path:
        pipeline = {
            "sources": [{"kind": "jsonl", "path": str(collection / "captions.jsonl")}],
            "columns": {"id": "id", "group": "group", "keep": {"colour": "string", "size": "int64"}},
            # Cut, small shapes would look like large ones, which their texts tell apart.
            "ingest": {"max_side": 64, "workers": 1, "trim": False},
            "training": {"max_minutes": None, "max_steps": 6, "batch_size": 16, "threads": 1},
            "evaluation": {"slices": ["colour"]},
        } | blocks
        file = folder / "pipelines.yaml"
        file.write_text(yaml.safe_dump({"root": "stored", "pipelines": {"shapes": pipeline}}), encoding="utf-8")
        return file

    return write


@pytest.fixture(scope="session")
def first_night(tmp_path_factory: pytest.TempPathFactory, shapes: Path, write_pipelines: Callable[..., Path]) -> Path:
    """A folder as a first night leaves it: `shapes`, pipelines.yaml over these, `stored`. Shared: copy it to go on."""
    from pairloom.flows.config import load_pipeline
    from pairloom.flows.nightly import nightly

    folder = tmp_path_factory.mktemp("first")
    file = write_pipelines(folder, shutil.copytree(shapes, folder / "shapes"))
    assert nightly(load_pipeline(file)).outcome == "released"
    return folder


def free_port() -> int:
    """A port of this machine that nothing listens on."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def prefect_environment(home: Path, **settings: str) -> dict[str, str]:
    """The environment of a Prefect process that shares nothing with others; a server of it looks around often."""
    ours = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    often = {
        "PREFECT_SERVER_EVENTS_PROACTIVE_GRANULARITY": "PT1S",
        "PREFECT_SERVER_SERVICES_SCHEDULER_RECENT_DEPLOYMENTS_LOOP_SECONDS": "1",
    }
    return ours | often | {"PREFECT_HOME": str(home), "PREFECT_SERVER_ANALYTICS_ENABLED": "false", **settings}


@contextlib.contextmanager
def prefect_serving(
    *arguments: str, environment: dict[str, str], log: Path
) -> Iterator[tuple[str, "subprocess.Popen[bytes]"]]:
    """`python …` that serves Prefect's API at the port that its environment names: the address, and the process."""
    home = environment["PREFECT_HOME"]
    for _ in range(3):
        port = free_port()
        api = f"http://127.0.0.1:{port}/api"
        with running(*arguments, environment=environment | {"PREFECT_SERVER_API_PORT": str(port)}, log=log) as process:
            try:
                wait_until(partial(answers, api, home), process, pause=0.2)
            except AssertionError:
                continue  # another process, perhaps another Prefect server, has taken the port since
            yield api, process
            return
    raise RuntimeError(f"no Prefect server could be started: {log.read_text(errors='replace')}")


def answers(api: str, home: str) -> bool:
    """Whether the Prefect server with this home answers at an address."""
    try:
        with urllib.request.urlopen(f"{api}/admin/settings") as response:
            return home in response.read().decode()
    except OSError:
        return False


@pytest.fixture(scope="session")
def prefect_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The empty database of a Prefect server, to be copied into a home: making one is most of a server's start."""
    home = tmp_path_factory.mktemp("database")
    command = [sys.executable, "-m", "prefect", "server", "database", "upgrade", "--yes"]
    subprocess.run(command, env=prefect_environment(home), check=True, capture_output=True)
    return home / "prefect.db"


@pytest.fixture(scope="module")
def prefect_api(prefect_database: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The API address of a real Prefect server, which keeps a core busy for as long as it runs."""
    home = tmp_path_factory.mktemp("prefect")
    shutil.copy(prefect_database, home)
    command = ("-m", "prefect", "server", "start", "--host", "127.0.0.1")
    with prefect_serving(*command, environment=prefect_environment(home), log=home / "server.log") as (api, _):
        yield api
