"""What a command may not import: seconds that nobody should wait for where nothing needs them."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from conftest import COLOURS, SHAPES, prefect_environment
from PIL import Image

from pairloom.flows.config import load_pipeline
from pairloom.flows.nightly import nightly
from pairloom.search.release import OpenRelease

LEARNING = ("torch", "torchvision", "open_clip", "timm", "transformers", "scipy", "sklearn")
UNREAD = ("pandas", "ftfy", "onnx", "prefect", "matplotlib")
QUERIES = ("onnxruntime", "tokenizers")
TABLES = ("lance", "lancedb", "pandas", "duckdb")
HEAVY = (*LEARNING, *TABLES, *QUERIES, "onnx", "prefect", "matplotlib")

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
    tmp_path_factory: pytest.TempPathFactory, first_night: Path, write_pipelines: Callable[..., Path]
) -> tuple[str, ...]:
    """Options that name a pipeline with a release, and without news: a night has looked at its moved pictures."""
    folder = shutil.copytree(first_night, tmp_path_factory.mktemp("released") / "copy")
    file = write_pipelines(folder, folder / "shapes")
    assert nightly(load_pipeline(file)).outcome == "unchanged"
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
        (0, ["sql", "SELECT count(*) AS n FROM items"], (*LEARNING, *UNREAD)),
        (
            0,
            ["sql", "SELECT count(*) FROM outliers(), near_duplicates(0.999), releases, quarantine"],
            (*LEARNING, "prefect", "matplotlib"),
        ),
        (0, ["run"], HEAVY),
        (0, ["collect-garbage", "--dry-run"], HEAVY),
        (0, ["deploy", "--check"], (*LEARNING, *TABLES, "matplotlib", "numpy", "pyarrow")),
        (0, ["search", "a red circle"], (*LEARNING, *UNREAD)),
        (0, ["search", "--like", "large-red-circle"], (*LEARNING, *QUERIES, *UNREAD)),
        (0, ["search", "--image", "{shapes}/large-red-circle.png"], (*LEARNING, *UNREAD)),
        (0, ["sql", "SELECT score FROM search('a red circle')"], (*LEARNING, *UNREAD)),
        (0, ["classify", "{shapes}/large-red-circle.png", "--threshold", "0.1"], (*LEARNING, "prefect", "matplotlib")),
        (2, ["search", "--image", "absent.png", "--where", "colour ="], (*LEARNING, *UNREAD)),
        (2, ["run", "--set", "training.max_stepz=1"], HEAVY),
        (2, ["run", "--set", "model.architecture=tiny-65"], HEAVY),
        (2, ["train", "--set", "training.max_stepz=1"], HEAVY),
        (2, ["search", "red", "-p", "shaeps"], HEAVY),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_command_imports_nothing_heavy_that_it_does_not_need(
    released: tuple[str, ...],
    shapes: Path,
    tmp_path: Path,
    status: int,
    arguments: list[str],
    forbidden: tuple[str, ...],
) -> None:
    options = () if "--help" in arguments else released
    done, imported = run(tmp_path, *(each.format(shapes=shapes) for each in arguments), *options)
    assert done.returncode == status, done.stderr
    if status == 0 and arguments[0] in ("run", "search") and "--help" not in arguments:
        assert done.stderr.splitlines()[0] == f"{arguments[0]}: starting …"
    assert imported & set(forbidden) == set()


def test_a_first_night_needs_no_server_and_imports_no_package_that_its_pipeline_does_not_name(
    tmp_path: Path, shapes: Path, write_pipelines: Callable[..., Path]
) -> None:
    done, imported = run(tmp_path, "run", "--json", "--file", str(write_pipelines(tmp_path, shapes)))
    assert json.loads(done.stdout)["outcome"] == "released", done.stderr
    assert not (tmp_path / "home" / "prefect.db").exists()
    assert "prefect" not in done.stderr.lower()
    assert imported & {"gensim", "ot", "pytorch_metric_learning", "umap", "peft"} == set()


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


def test_a_release_embeds_as_the_whole_model_does_and_does_not_load_it(released: tuple[str, ...], shapes: Path) -> None:
    release = OpenRelease.open(load_pipeline(Path(released[1])).folder)
    texts = [f"a {colour} {shape}" for colour in COLOURS for shape in SHAPES]
    images = [Image.open(path).convert("RGB") for path in sorted(shapes.glob("*.png"))]
    text_ND, image_ND = release.embed_texts(texts), release.embed_images(images)
    assert "encoder" not in vars(release)
    np.testing.assert_allclose(text_ND, release.encoder.embed_texts(texts), atol=1e-5, rtol=0)
    np.testing.assert_allclose(image_ND, release.encoder.embed_images(images), atol=1e-5, rtol=0)


def test_data_frames_are_still_there_after_a_start_without_pandas(tmp_path: Path) -> None:
    program = (
        "from pairloom.flows.cli.lean import reads_without_pandas; reads_without_pandas(); import sys, pyarrow as pa; "
        "table = pa.table({'a': [1, None]}); assert 'pandas' not in sys.modules; frame = table.to_pandas(); "
        "print(frame.a.isna().sum(), pa.array(frame.a, from_pandas=True).null_count)"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["1", "1"]


def test_the_verbs_and_the_night_are_imported_without_what_they_work_with(tmp_path: Path) -> None:
    early = ("admit", "calibrate", "collect", "decide", "embed", "evaluate", "index", "ingest")
    verbs = (*early, "mine", "pipeline", "publish", "readiness", "train")
    modules = ("pairloom.flows.nightly", "pairloom.flows.stages", *(f"pairloom.tasks.{verb}" for verb in verbs))
    program = f"import json, sys, {', '.join(modules)}; print(json.dumps(list(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert set(json.loads(done.stdout)) & set(HEAVY) == set()


def test_a_command_that_takes_longer_says_so_first_and_not_on_standard_output(
    released: tuple[str, ...], tmp_path: Path
) -> None:
    done, _ = run(tmp_path, "ingest", "--json", *released)
    assert done.returncode == 0
    assert done.stderr.splitlines()[0] == "ingest: starting …"
    assert json.loads(done.stdout)
