"""What a command may not import: seconds that nobody should wait for where nothing needs them."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from conftest import COLOURS, SHAPES, prefect_environment

from pairloom.flows.config import load_pipeline
from pairloom.flows.nightly import nightly
from pairloom.search.release import FEW_TEXTS, OpenRelease

LEARNING = ("torch", "torchvision", "open_clip", "timm", "transformers", "scipy", "sklearn")
TABLES = ("lance", "lancedb", "pandas", "duckdb")
HEAVY = (*LEARNING, *TABLES, "prefect", "matplotlib")

# The command's own output goes to its streams; what it imported, to a file.
RUN = """
import sys, pathlib
from pairloom.flows.cli import main
sys.argv[0] = "pairloom"
try:
    main()
finally:
    pathlib.Path({out!r}).write_text(" ".join(sys.modules))
"""


@pytest.fixture(scope="module")
def released(
    tmp_path_factory: pytest.TempPathFactory, shapes: Path, write_pipelines: Callable[..., Path]
) -> tuple[str, ...]:
    """Options that name a pipeline with a release; tests only read it."""
    file = write_pipelines(tmp_path_factory.mktemp("released"), shapes)
    assert nightly(load_pipeline(file)).outcome == "released"
    return ("--file", str(file))


def run(folder: Path, *arguments: str) -> tuple["subprocess.CompletedProcess[str]", set[str]]:
    """A command in a process of its own, and the packages that it imported."""
    out = folder / "modules"
    environment = prefect_environment(folder / "home") | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    command = [sys.executable, "-c", RUN.format(out=str(out)), *arguments]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    return done, {name.partition(".")[0] for name in out.read_text().split()}


@pytest.mark.parametrize(
    ("status", "arguments", "forbidden"),
    [
        (0, ["--help"], (*HEAVY, "numpy", "pyarrow")),
        (0, ["run", "--help"], (*HEAVY, "numpy", "pyarrow")),
        (0, ["status"], HEAVY),
        (0, ["releases"], HEAVY),
        (0, ["show", "1"], HEAVY),
        (0, ["sql", "SELECT count(*) AS n FROM items"], (*LEARNING, "prefect", "matplotlib")),
        (
            0,
            ["sql", "SELECT count(*) FROM outliers(), near_duplicates(0.999), releases, quarantine"],
            (*LEARNING, "prefect", "matplotlib"),
        ),
        (0, ["run"], HEAVY),
        (0, ["collect-garbage", "--dry-run"], HEAVY),
        (0, ["deploy", "--check"], (*LEARNING, *TABLES, "matplotlib")),
        (0, ["search", "a red circle"], (*LEARNING, "prefect", "matplotlib")),
        (0, ["search", "--like", "large-red-circle"], (*LEARNING, "prefect", "matplotlib")),
        (2, ["search", "--image", "absent.png", "--where", "colour ="], (*LEARNING, "prefect", "matplotlib")),
        (2, ["run", "--set", "training.max_stepz=1"], HEAVY),
        (2, ["run", "--set", "model.architecture=tiny-65"], HEAVY),
        (2, ["train", "--set", "training.max_stepz=1"], HEAVY),
        (2, ["search", "red", "-p", "shaeps"], HEAVY),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_command_imports_nothing_heavy_that_it_does_not_need(
    released: tuple[str, ...], tmp_path: Path, status: int, arguments: list[str], forbidden: tuple[str, ...]
) -> None:
    options = () if "--help" in arguments else released
    done, imported = run(tmp_path, *arguments, *options)
    assert done.returncode == status, done.stderr
    assert imported & set(forbidden) == set()


def test_a_night_without_news_that_reads_everything_imports_nothing_heavy(
    released: tuple[str, ...], tmp_path: Path
) -> None:
    due = load_pipeline(Path(released[1])).folder / "verified.json"
    due.write_text(json.dumps({"on": "2020-01-01"}))
    done, imported = run(tmp_path, "run", *released)
    assert done.returncode == 0, done.stderr
    assert "verify: done · " in done.stderr
    assert json.loads(due.read_bytes())["on"] != "2020-01-01"
    assert imported & set(HEAVY) == set()


def test_few_texts_and_many_are_embedded_alike_and_only_many_load_the_whole_model(released: tuple[str, ...]) -> None:
    release = OpenRelease.open(load_pipeline(Path(released[1])).folder)
    texts = [f"a {colour} {shape}" for colour in COLOURS for shape in SHAPES]
    few = release.embed_texts(texts[:FEW_TEXTS])
    assert "encoder" not in vars(release)
    many = release.embed_texts(texts)
    assert "encoder" in vars(release)
    np.testing.assert_allclose(few, many[:FEW_TEXTS], atol=1e-6, rtol=0)


def test_the_verbs_and_the_night_are_imported_without_what_they_work_with(tmp_path: Path) -> None:
    early = ("admit", "calibrate", "collect", "decide", "embed", "evaluate", "index", "ingest")
    verbs = (*early, "mine", "pipeline", "publish", "readiness", "train")
    modules = ("pairloom.flows.nightly", "pairloom.flows.stages", *(f"pairloom.tasks.{verb}" for verb in verbs))
    program = f"import json, sys, {', '.join(modules)}; print(json.dumps(list(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert set(json.loads(done.stdout)) & set(HEAVY) == set()


@pytest.mark.parametrize("command", ["run", "ingest", "search"])
def test_a_command_that_takes_longer_says_so_first_and_not_on_standard_output(
    released: tuple[str, ...], tmp_path: Path, command: str
) -> None:
    done, _ = run(tmp_path, command, *(["a red circle"] if command == "search" else []), "--json", *released)
    assert done.returncode == 0
    assert done.stderr.splitlines()[0] == f"{command}: starting …"
    assert json.loads(done.stdout)
