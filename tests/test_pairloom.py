"""What people import, and the file they start from."""

import re
import runpy
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from released_pipeline import NAMES, picture, publish
from typer.testing import CliRunner

import pairloom
from pairloom.flows.cli import app
from pairloom.flows.config import TEMPLATE, load_pipeline
from pairloom.search.query import Query, search
from pairloom.storage.files import DamagedError
from pairloom.tasks.version import version

PROJECT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root with two pipelines, `fruits` with two releases and `other` with one."""
    root = tmp_path_factory.mktemp("root")
    publish(root / "fruits", names=NAMES[:10])
    publish(root / "fruits", number=2)
    publish(root / "other", names=NAMES[:10])
    return root


def test_importing_pairloom_imports_nothing_else_of_ours_and_nothing_heavy() -> None:
    code = (
        "import sys; before = set(sys.modules); import pairloom; pairloom.__version__;"
        "new = set(sys.modules) - before - set(sys.stdlib_module_names);"
        "print(*{name.partition('.')[0] for name in new} - set(sys.stdlib_module_names),"
        "      *(name for name in new if name.startswith('pairloom.')))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["pairloom"]


def test_a_release_is_opened_by_file_by_root_and_by_its_own_folder(root: Path, tmp_path: Path) -> None:
    file = tmp_path / "pipelines.yaml"
    file.write_text(yaml.safe_dump({"root": str(root), "pipelines": {"fruits": {}, "other": {}}}))
    places: list[tuple[Path | str, str | None]] = [(root, "fruits"), (root / "fruits", None), (str(file), "fruits")]
    opened = [pairloom.open(place, name) for place, name in places]
    assert [(index.folder, index.record.number) for index in opened] == [((root / "fruits").resolve(), 2)] * 3
    assert pairloom.open(root, "fruits", release=1).dataset.count_rows() == 10


def test_a_root_with_one_pipeline_needs_no_name(tmp_path: Path) -> None:
    publish(tmp_path / "fruits", names=NAMES[:10])
    (tmp_path / "demo-icons").mkdir()
    assert pairloom.open(tmp_path).folder == (tmp_path / "fruits").resolve()


def test_an_index_is_searched_by_a_text_or_by_a_query(root: Path) -> None:
    index = pairloom.open(root, "fruits")
    query = Query(text="red apple")
    found = search(index, query, k=3).to_json()
    assert index.search("red apple", k=3).to_json() == index.search(query, k=3).to_json() == found
    assert {hit.metadata["subgroup"] for hit in index.search("red", where="subgroup = 'Fig'").hits} == {"Fig"}


@pytest.mark.parametrize(
    ("name", "release", "said"),
    [
        (None, None, r"holds several pipelines: choose one \(fruits, other\)"),
        ("fruit", None, "has no pipeline 'fruit'; did you mean 'fruits'?"),
        ("fruits", 9, "no release 9: there are 1, 2"),
    ],
)
def test_what_is_not_there_is_named(root: Path, name: str | None, release: int | None, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        pairloom.open(root, name, release)


def test_a_place_that_holds_no_release_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="holds no pipeline that has a release"):
        pairloom.open(tmp_path)
    with pytest.raises(ValueError, match=r"no file .*absent"):
        pairloom.open(tmp_path / "absent")


def test_a_release_that_is_not_whole_is_named(tmp_path: Path) -> None:
    record = publish(tmp_path, names=NAMES[:10])
    (tmp_path / "models" / record.model_id / "open_clip_config.json").unlink()
    with pytest.raises(DamagedError, match=r"release 1 is not whole: models/.*json is missing"):
        pairloom.open(tmp_path, release=1)


def test_a_night_is_run_and_its_release_opened(
    tmp_path: Path, shapes: Path, write_pipelines: Callable[..., Path]
) -> None:
    file = write_pipelines(tmp_path, shapes)
    night = pairloom.run(file, root=tmp_path / "elsewhere", overrides=["training.max_steps=2"])
    assert (night.outcome, night.release) == ("released", 1)
    assert pairloom.open(tmp_path / "elsewhere").search("a red circle", k=60).hits
    with pytest.raises(ValueError, match="has no pipeline 'shaeps'"):
        pairloom.run(file, "shaeps")


@pytest.mark.parametrize(("page", "printed"), [("README.md", 10)])
def test_the_examples_in_python_run(
    page: str, printed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    publish(tmp_path / ".pairloom" / "mine")
    (tmp_path / "mine.yaml").write_text("pipelines: {mine: {}}")
    (tmp_path / "photo.jpg").write_bytes(picture(1))
    (tmp_path / "stock.csv").write_text("item_id,stock\nred fig,3\n")
    text = (PROJECT / page).read_text(encoding="utf-8")
    section = text[text.index("import pairloom") - len("```python\n") :].partition("\n## ")[0]
    (tmp_path / "example.py").write_text("\n".join(re.findall(r"```python\n(.*?)```", section, re.DOTALL)))
    monkeypatch.chdir(tmp_path)
    assert runpy.run_path("example.py")["index"].record.number == 1
    assert capsys.readouterr().out.count("\n") == printed


def test_init_writes_the_template_and_overwrites_only_when_forced(tmp_path: Path) -> None:
    file = tmp_path / "new" / "mine.yaml"
    done = CliRunner().invoke(app, ["init", str(file)])
    assert done.exit_code == 0
    assert f"pairloom run --file {file}" in done.stdout
    assert file.read_text(encoding="utf-8") == TEMPLATE.read_text(encoding="utf-8")

    file.write_text("mine")
    refused = CliRunner().invoke(app, ["init", str(file)])
    assert refused.exit_code == 2
    assert refused.stderr == f"error: {file} is there already: name another file, or write over it with --force\n"
    assert file.read_text() == "mine"
    assert CliRunner().invoke(app, ["init", str(file), "--force"]).exit_code == 0
    assert file.read_text(encoding="utf-8") == TEMPLATE.read_text(encoding="utf-8")


def test_the_template_is_valid_for_a_folder_and_uncommented_for_a_captions_file(tmp_path: Path) -> None:
    text = TEMPLATE.read_text(encoding="utf-8")
    file = tmp_path / "pipelines.yaml"
    file.write_text(text, encoding="utf-8")
    assert load_pipeline(file).sources[0].kind == "folder"
    assert load_pipeline(file).folder == tmp_path / ".pairloom" / "mine"

    before, folder, after = text.partition("      - {kind: folder, path: /path/to/your/pictures}\n")
    assert folder
    wanted = ("# sources:", "#   - {kind: csv", "# columns:", "# schedule:")
    lines = [line.replace("# ", "", 1) if line.strip().startswith(wanted) else line for line in after.split("\n")]
    file.write_text(before.removesuffix("    sources:\n") + "\n".join(lines), encoding="utf-8")
    pipeline = load_pipeline(file)
    assert pipeline.sources[0].kind == "csv"
    assert pipeline.columns.texts == ["title", "description"]
    assert pipeline.schedule is not None


def test_the_template_stores_where_the_shipped_pipelines_do() -> None:
    template, shipped = (yaml.safe_load(path.read_text("utf-8")) for path in (TEMPLATE, PROJECT / "pipelines.yaml"))
    assert template["root"] == shipped["root"]
    assert not set(template["pipelines"]) & set(shipped["pipelines"])


def test_the_version_names_the_commit_of_a_checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "pairloom").mkdir()
    (tmp_path / "pairloom" / "__init__.py").touch()
    monkeypatch.setattr(pairloom, "__file__", str(tmp_path / "pairloom" / "__init__.py"))
    assert version() == pairloom.__version__

    git = ("git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@example.org")
    for command in (("init", "-q"), ("add", "."), ("commit", "-q", "-m", "first")):
        subprocess.run([*git, *command], check=True)
    commit = subprocess.run([*git, "rev-parse", "--short=7", "HEAD"], capture_output=True, text=True, check=True)
    # A hook of another repository runs with that one's folder in its environment.
    monkeypatch.setenv("GIT_DIR", "/absent")
    assert version() == f"{pairloom.__version__} (commit {commit.stdout.strip()})"
    (tmp_path / "pairloom" / "__init__.py").write_text("changed = True")
    assert version() == f"{pairloom.__version__} (commit {commit.stdout.strip()}-dirty)"
