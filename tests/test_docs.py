"""The docs are tested: what they name exists."""

import importlib.util
import io
import json
import re
import subprocess
import sys
import tarfile
from pathlib import Path
from types import ModuleType

import lancedb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from typer.main import get_command

from pairloom.flows.cli import app
from pairloom.flows.config import load_pipeline
from pairloom.storage.sources.rows import read_source
from pairloom.storage.sources.source_row import SourceRow
from pairloom.tasks.pipeline import Pipeline

PROJECT = Path(__file__).parents[1]
PAGES = sorted([PROJECT / "README.md", *(PROJECT / "docs").glob("*.md"), *(PROJECT / "benchmarks").glob("*.md")])
PROGRAM = get_command(app)
COMMANDS = PROGRAM.commands  # type: ignore[attr-defined]  # Typer's command is a group: it holds several


def maker(name: str = "make_configuration") -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, PROJECT / "docs" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_configuration_page_is_fresh() -> None:
    page = (PROJECT / "docs" / "configuration.md").read_text(encoding="utf-8")
    assert page == maker().page(), "run `make docs`"


def test_the_table_of_reasons_is_fresh() -> None:
    page = (PROJECT / "docs" / "quarantine.md").read_text(encoding="utf-8")
    assert page == maker("make_quarantine").page(), "run `make docs`"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_and_option_that_a_page_names_exists(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    known = {*COMMANDS, *(option for parameter in PROGRAM.params for option in parameter.opts)}
    for name in re.findall(r"pairloom ([a-z-]+)", text):
        assert name in known, name
    for name, rest in re.findall(r"pairloom ([a-z][a-z-]*)([^`\n]*)", text):
        options = {option for parameter in COMMANDS[name].params for option in parameter.opts}
        assert set(re.findall(r"(?<![\w-])(--?[a-z][a-z-]*)", rest.split("#")[0])) <= options, name


def test_the_readme_lists_every_command() -> None:
    table = (PROJECT / "README.md").read_text(encoding="utf-8")
    assert {name for name in COMMANDS if f"`{name}" not in table and f"`pairloom {name}" not in table} == set()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_leads_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text(encoding="utf-8")):
        assert (page.parent / target).exists(), target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_yaml_example_is_valid(page: Path) -> None:
    for example in re.findall(r"```yaml\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL):
        for name, block in yaml.safe_load(example)["pipelines"].items():
            assert Pipeline.model_validate({**block, "name": name, "root": "stored"})


SECTIONS = [
    each
    for each in re.split(r"^## ", (PROJECT / "docs" / "sources.md").read_text("utf-8"), flags=re.M)
    if "```yaml" in each
]


ROW = {"sku": "A-1", "photo": b"bytes of a picture", "title": "Red shoe", "description": "A shoe", "price": 59.9}


def write_parquet_example(folder: Path) -> None:
    (folder / "shop").mkdir()
    pq.write_table(pa.Table.from_pylist([ROW]), folder / "shop" / "one.parquet")


def write_shard_example(folder: Path) -> None:
    (folder / "shards").mkdir()
    members = {"jpg": b"bytes", "txt": b"Red shoe", "json": b'{"url": "https://shop.example/a.jpg", "width": 80}'}
    with tarfile.open(folder / "shards" / "0.tar", "w") as archive:
        for suffix, content in members.items():
            header = tarfile.TarInfo(f"0001.{suffix}")
            header.size = len(content)
            archive.addfile(header, io.BytesIO(content))


def write_table_example(folder: Path) -> None:
    table = lancedb.connect(folder / "database").create_table("products", pa.Table.from_pylist([ROW]))
    for number in (2, 3):
        table.add(pa.Table.from_pylist([{**ROW, "sku": f"A-{number}"}]))


def write_address_example(folder: Path) -> None:
    row = {"sku": "A-1", "picture_url": "https://pictures.intranet.example/a.jpg", "title": "Red shoe"}
    (folder / "intranet.jsonl").write_text(json.dumps(row))
    (folder / "products.csv").write_text("\n".join(",".join(line) for line in (row.keys(), row.values())))


WRITERS = {
    "Parquet": write_parquet_example,
    "WebDataset": write_shard_example,
    "Lance": write_table_example,
    "Addresses": write_address_example,
}


@pytest.mark.parametrize("section", SECTIONS, ids=lambda section: section.partition("\n")[0])
def test_every_example_of_the_page_on_sources_reads_the_files_that_the_page_shows(section: str, tmp_path: Path) -> None:
    (example,) = re.findall(r"```yaml\n(.*?)```", section, re.DOTALL)
    file = tmp_path / "pipelines.yaml"
    file.write_text(example, encoding="utf-8")
    pipeline = load_pipeline(file)
    encodings = {
        str(path): getattr(source, "encoding", "utf-8") for source in pipeline.sources for path in source.paths
    }
    # A name in backticks, then what stands in it; a folder's is a list of its files.
    for name, content in re.findall(r"`([\w/.-]+)`[^`]*\n\n```(?:text|json)\n(.*?)```", section, re.DOTALL):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix:
            path.write_text(content, encoding=encodings.get(str(path), "utf-8"))
        for image in re.findall(r"[\w/-]+\.(?:jpg|png)", content):
            picture = (path.parent if path.suffix else tmp_path) / image
            picture.parent.mkdir(parents=True, exist_ok=True)
            picture.touch()
    for program in re.findall(r"```python\n(.*?)```", section, re.DOTALL):
        (tmp_path / "generated").mkdir()
        subprocess.run([sys.executable, "-c", program], cwd=tmp_path, check=True)
    WRITERS.get(section.partition("\n")[0], lambda _: None)(tmp_path)
    for source in pipeline.sources:
        rows = list(read_source(source, pipeline.columns))
        assert rows
        assert [row for row in rows if not isinstance(row, SourceRow)] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_configuration_key_that_a_page_names_exists(page: Path) -> None:
    blocks = set(Pipeline.model_fields)
    known = set(re.findall(r"^## `([\w.]+)", (PROJECT / "docs" / "configuration.md").read_text("utf-8"), re.MULTILINE))
    for key in re.findall(r"`([a-z]+\.[a-z_.]+)(?:=[^`]*)?`", page.read_text(encoding="utf-8")):
        block, _, field = key.rpartition(".")
        if key.partition(".")[0] in blocks and not key.endswith((".md", ".py", ".yaml")):
            assert key in known or field in maker().fields(block), key


def test_the_tree_in_the_readme_names_modules_that_exist() -> None:
    readme = (PROJECT / "README.md").read_text(encoding="utf-8")
    tree = re.search(r"## Read the code.*?```\n(.*?)```", readme, re.DOTALL)
    assert tree is not None
    for folder, names in re.findall(r"^(\w+)/\s+\d\s+[^:\n]*: ([a-z ]+)$", tree.group(1), re.MULTILINE):
        assert [
            name
            for name in names.split()
            if not any((PROJECT / folder / each).exists() for each in (f"{name}.py", name))
        ] == [], folder
