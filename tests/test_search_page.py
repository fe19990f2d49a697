"""docs/search.md is run: its Python from top to bottom, and its commands, over a release with a brand and a price."""

import json
import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import COLOURS
from typer.testing import CliRunner

from pairloom.flows.cli import app
from pairloom.flows.config import load_pipeline
from pairloom.flows.nightly import nightly

PAGE = (Path(__file__).parents[1] / "docs" / "search.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```(\w*)\n(.*?)```", PAGE, re.DOTALL)
TESTS = Path(__file__).parent
ELSEWHERE = {
    "--as": "test_second_tower.py",
    "--only-fitting": "test_cutoff.py",
    "umap": "test_map.py",
    "diff": "test_diff.py",
    "pairloom map": "test_map.py",
    "pairloom sql": "test_cli.py",
}
"""What other tests run, by which: most of it needs a model of another kind."""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, shapes: Path, write_pipelines: Callable[..., Path]) -> Path:
    """A folder with `pipelines.yaml`, a release of `mine` below `.pairloom`, and two photos."""
    folder = tmp_path_factory.mktemp("place")
    lines = [json.loads(line) for line in (shapes / "captions.jsonl").read_text("utf-8").splitlines()]
    rows = [{**row, "brand": "Acme" if at % 2 else "Bolt", "price": at} for at, row in enumerate(lines)]
    (folder / "captions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    columns = {"id": "id", "group": "group", "keep": {"brand": "string", "price": "int64"}}
    sources = [{"kind": "jsonl", "path": str(folder / "captions.jsonl"), "base": str(shapes)}]
    file = write_pipelines(folder, folder, columns=columns, sources=sources)
    [pipeline] = yaml.safe_load(file.read_text(encoding="utf-8"))["pipelines"].values()
    pipeline["evaluation"] = {}
    file.write_text(yaml.safe_dump({"root": ".pairloom", "pipelines": {"mine": pipeline}}), encoding="utf-8")
    night = nightly(load_pipeline(file))
    assert night.outcome == "released", night.reason
    (folder / "stock.csv").write_text("item_id,stock\nlarge-red-circle,3\n", encoding="utf-8")
    for name, colour in zip(("photo.jpg", "other.jpg"), COLOURS, strict=False):
        (folder / name).write_bytes((shapes / f"large-{colour}-circle.png").read_bytes())
    return folder


def test_no_example_of_the_page_is_run_by_nobody() -> None:
    assert len(BLOCKS) * 2 == PAGE.count("```")
    assert {kind for kind, _ in BLOCKS} == {"", "python"}
    lines = [line for kind, block in BLOCKS if not kind for line in block.splitlines()]
    assert [line for line in lines if not line.startswith("pairloom ")] == []
    for each, file in ELSEWHERE.items():
        assert any(each in line for line in lines), each
        assert f'"{each.removeprefix("pairloom ")}"' in (TESTS / file).read_text(encoding="utf-8"), each


def test_every_command_of_the_page_runs(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)
    lines = [line for kind, block in BLOCKS if not kind for line in block.splitlines() if line.startswith("pairloom ")]
    lines = [line for line in lines if not any(each in line for each in ELSEWHERE)]
    assert {line.split()[1] for line in lines} >= {"search", "shell", "export"}
    for line in lines:
        arguments = shlex.split(line.replace("ITEM_ID", "large-red-circle"))[1:]
        done = CliRunner().invoke(app, arguments, input=":help\n")
        assert done.exit_code == 0, (line, done.stderr)
    assert "indexes" in [path.name for path in place.iterdir()]


def test_every_python_example_of_the_page_runs(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)
    if not Path("indexes").exists():
        assert CliRunner().invoke(app, ["export", "--out", "indexes", "--format", "usearch"]).exit_code == 0
    names: dict[str, Any] = {"__name__": "page"}
    for kind, block in BLOCKS:
        if kind == "python":
            exec(compile(block, "docs/search.md", "exec"), names)  # noqa: S102  # what the page shows
    near = [names["items"].to_table(columns=["item_id"]).num_rows, len(names["nearest"]), len(names["results"])]
    assert near == [60, 10, 3]
    ours = [hit.item_id for hit in names["index"].search("a red shoe", k=10).hits]
    assert names["nearest"]["item_id"].tolist() == ours
