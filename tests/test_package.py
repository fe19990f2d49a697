"""The package as strangers get it: built, installed without the network beside packages named like our folders."""

import json
import os
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest
from released_pipeline import publish

import pairloom

PROJECT = Path(__file__).parents[1]
FOLDERS = ("flows", "models", "search", "storage", "tasks")
HATCHLING = (sys.executable, "-m", "hatchling", "build")


def ran(*command: str | Path, folder: Path) -> str:
    """What a command prints that runs in `folder` with no path of ours in its environment."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "PREFECT"))}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the wheel and the source distribution of this checkout."""
    folder = tmp_path_factory.mktemp("built")
    ran(*HATCHLING, "-d", folder, folder=PROJECT)
    return folder


@pytest.fixture(scope="module")
def unpacked(built: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The source distribution, unpacked; it holds no links."""
    folder = tmp_path_factory.mktemp("unpacked")
    with tarfile.open(only(built, "*.tar.gz")) as archive:
        archive.extractall(folder, filter="data")
    return only(folder, "pairloom-*")


@pytest.fixture(scope="module")
def installed(built: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The programs of a fresh environment with the wheel in it, beside strangers that bear our folders' names."""
    folder = tmp_path_factory.mktemp("fresh")
    venv.create(folder, symlinks=True)
    programs = folder / "bin"
    packages = Path(sysconfig.get_path("purelib", vars={"base": str(folder), "platbase": str(folder)}))
    (packages / "dependencies.pth").write_text(sysconfig.get_path("purelib"))
    for name in FOLDERS:
        (packages / name).mkdir()
        (packages / name / "__init__.py").write_text("raise SystemExit('a stranger was imported')")
    options = ("--offline", "--no-index", "--no-deps", "--no-cache", "--quiet", "--python", programs / "python")
    ran(sys.executable, "-m", "uv", "pip", "install", *options, only(built, "*.whl"), folder=folder)
    return programs


def only(folder: Path, pattern: str) -> Path:
    (found,) = folder.glob(pattern)
    return found


def contents(wheel: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(wheel) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def test_the_wheel_holds_pairloom_whole_and_nothing_else(built: Path) -> None:
    names = set(contents(only(built, "*.whl")))
    assert {name.partition("/")[0] for name in names} == {"pairloom", f"pairloom-{pairloom.__version__}.dist-info"}
    sources = {
        f"pairloom/{path.relative_to(PROJECT)}"
        for folder in FOLDERS
        for path in (PROJECT / folder).rglob("*")
        if path.is_file() and path.suffix != ".pyc"
    }
    extra = {"pairloom/__init__.py", "pairloom/hash_bands.py", "pairloom/py.typed", "pairloom/pipelines.yaml"}
    assert {name for name in names if name.startswith("pairloom/")} == sources | extra
    assert {"pairloom/flows/template.yaml", "pairloom/models/towers/architectures/tiny-32.json"} <= names


def test_the_source_distribution_makes_the_same_wheel(built: Path, unpacked: Path, tmp_path: Path) -> None:
    ran(*HATCHLING, "-t", "wheel", "-d", tmp_path, folder=unpacked)
    assert contents(only(tmp_path, "*.whl")) == contents(only(built, "*.whl"))


def test_without_links_the_folders_are_found_all_the_same(unpacked: Path) -> None:
    assert not (unpacked / "pairloom" / "flows").exists()
    code = "import pairloom.flows.config, pairloom.storage.images.worker as w; print(pairloom.flows.config.__file__)"
    assert ran(sys.executable, "-c", code, folder=unpacked).strip() == str(unpacked / "flows" / "config.py")


def test_an_editable_installation_exposes_pairloom_alone(tmp_path: Path) -> None:
    code = "import sys; from hatchling.build import build_editable; build_editable(sys.argv[1])"
    ran(sys.executable, "-c", code, tmp_path, folder=PROJECT)
    (paths,) = [text for name, text in contents(only(tmp_path, "*.whl")).items() if name.endswith(".pth")]
    (exposed,) = paths.decode().splitlines()
    assert [path.name for path in Path(exposed).iterdir()] == ["pairloom"]
    assert (Path(exposed) / "pairloom" / "flows" / "nightly.py").samefile(PROJECT / "flows" / "nightly.py")


def test_an_installed_command_line_helps_tells_its_version_and_writes_the_template(
    installed: Path, tmp_path: Path
) -> None:
    program = installed / "pairloom"
    assert "search" in ran(program, "--help", folder=tmp_path)
    assert "--sheet" in ran(program, "demo", "--help", folder=tmp_path)
    assert ran(program, "--version", folder=tmp_path).strip() == pairloom.__version__
    assert "pairloom run" in ran(program, "init", folder=tmp_path)
    assert (tmp_path / "pipelines.yaml").read_bytes() == (PROJECT / "flows" / "template.yaml").read_bytes()


def test_an_installed_package_answers_from_a_release(installed: Path, tmp_path: Path) -> None:
    release = publish(tmp_path / "stored" / "fruits")
    (tmp_path / "models.py").write_text("raise SystemExit('a stranger was imported')")
    (tmp_path / "ask.py").write_text(
        "import pairloom\n"
        "print(pairloom.open('stored', release=1).search('red apple', k=3).model_dump_json(exclude={'hits'}))\n"
    )
    answer = json.loads(ran(installed / "python", "ask.py", folder=tmp_path))
    about = {"release": 1, "model_id": release.model_id, "title": "red apple", "offset": 0, "where": None}
    assert answer == about | {"cutoff": None, "unmet_words": []}
