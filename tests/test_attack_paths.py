"""Attacks by paths: names of pipelines that lead out of the root, at every command and from Python."""

import hashlib
import json
from pathlib import Path

import pytest
from released_pipeline import publish
from typer.testing import CliRunner

import pairloom
from pairloom.flows.cli import app
from pairloom.flows.config import folder_at, load_pipeline, pipeline_folder

NAMES = [
    "../../other/root/p",
    "../p",
    "..",
    ".",
    "/etc",
    "a/b",
    "a\\b",
    "~",
    "a\n",
    "a\x00b",
    "\x1b[31mred",
    "a b",
    "A",
    "-p",
    "ü",
    "a" * 64,
    "con:",
    "$HOME",
]
COMMANDS = [
    ["search", "red"],
    ["map"],
    ["sql", "SELECT 1"],
    ["words", "red"],
    ["classify", "a.png"],
    ["classes"],
    ["classes", "add", "red", "a.png"],
    ["classes", "remove", "red"],
    ["status"],
    ["releases"],
    ["show", "1"],
    ["rollback", "1"],
    ["approve"],
    ["refuse"],
    ["run"],
    ["ingest"],
    ["mine"],
    ["train"],
    ["evaluate"],
    ["evaluate", "--model", "a", "--data", "."],
    ["embed"],
    ["publish"],
    ["deploy", "--check"],
    ["serve"],
]


def write(folder: Path, name: str) -> Path:
    file = folder / "pipelines.yaml"
    block = {"sources": [{"kind": "folder", "path": str(folder)}]}
    file.write_text(json.dumps({"pipelines": {name: block}}))
    return file


def state(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Another root, with a release that a name could lead to."""
    folder = tmp_path_factory.mktemp("both")
    publish(folder / "other" / "root" / "p")
    (folder / "here").mkdir()
    return folder


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_no_command_follows_a_name_out_of_the_root(
    other: Path, command: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    here = other / "here"
    monkeypatch.chdir(here)
    file = write(here, "../../other/root/p")
    before = state(other)
    named = ["-p", "../../other/root/p"] if "--model" in command else []
    result = CliRunner().invoke(app, [*command, "--file", str(file), *named])
    assert result.exit_code == 2
    [line] = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert "a pipeline can't be called '../../other/root/p'" in line
    assert state(other) == before


@pytest.mark.parametrize("name", NAMES)
def test_name_that_is_no_plain_folders_is_refused_in_one_line(name: str, tmp_path: Path) -> None:
    file = write(tmp_path, name)
    for ask in (load_pipeline, pipeline_folder, folder_at):
        with pytest.raises(ValueError, match="a pipeline can't be called") as error:
            ask(file, name)
        assert str(error.value).isprintable()
    assert [path.name for path in tmp_path.iterdir()] == ["pipelines.yaml"]


@pytest.mark.parametrize("name", ["../../other/root/p", "../root/p", "..", "."])
def test_no_name_leads_out_of_a_root_that_is_opened_from_python(other: Path, name: str) -> None:
    (other / "open" / "mine" / "releases").mkdir(parents=True, exist_ok=True)
    with pytest.raises(ValueError, match="has no pipeline"):
        pairloom.open(other / "open", name)


def test_root_may_be_anywhere(tmp_path: Path) -> None:
    file = write(tmp_path, "mine")
    assert pipeline_folder(file, root=tmp_path / "x" / ".." / "elsewhere") == tmp_path / "elsewhere" / "mine"
