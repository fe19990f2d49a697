"""Hostile captions, names and values from end to end: a night, its report, its card, and commands that show them."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from test_attack_texts import TEXTS, Tags, unseen
from typer.testing import CliRunner

from pairloom.flows.cli import app
from pairloom.flows.config import load_pipeline
from pairloom.flows.nightly import nightly
from pairloom.flows.outcome import Night
from pairloom.flows.show.loss_curve import curve_section
from pairloom.flows.show.mining_report import mining_section
from pairloom.flows.show.report import map_section, markdown, sample_answers
from pairloom.search.release import OpenRelease
from pairloom.search.sql import json_rows, run_sql

WritePipelines = Callable[..., Path]


@pytest.fixture(scope="module")
def released(
    tmp_path_factory: pytest.TempPathFactory, shapes: Path, write_pipelines: WritePipelines
) -> tuple[Path, Night]:
    """A file of pipelines whose collection says nothing but attacks, and its first night."""
    folder = tmp_path_factory.mktemp("hostile")
    rows = [json.loads(line) for line in (shapes / "captions.jsonl").read_text().splitlines()]
    for number, row in enumerate(rows):
        text = TEXTS[number % len(TEXTS)]
        row |= {"id": f"{number} {text}", "text": f"{text} {number}", "colour": text, "group": f"{text} {number // 2}"}
    (folder / "captions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for picture in shapes.glob("*.png"):
        (folder / picture.name).write_bytes(picture.read_bytes())
    file = write_pipelines(folder, folder, evaluation={"slices": ["colour", "group"]})
    return file, nightly(load_pipeline(file))


def test_every_row_is_served_as_it_was_written(released: tuple[Path, Night]) -> None:
    file, night = released
    assert (night.outcome, night.rows["served"], night.rows["quarantined"]) == ("released", 60, 0)
    release = OpenRelease.open(load_pipeline(file).folder)
    stored = {row["item_id"]: row for row in json_rows(run_sql(release, "SELECT item_id, texts, colour FROM items"))}
    for number in range(60):
        text = TEXTS[number % len(TEXTS)]
        row = stored[f"{number} {text}".strip()]
        assert row["colour"].strip() == text.strip()


def test_report_is_made_of_nothing_of_theirs(released: tuple[Path, Night]) -> None:
    file, night = released
    pipeline = load_pipeline(file)
    release = OpenRelease.open(pipeline.folder)
    learning = [
        *map_section(release),
        *mining_section(pipeline, night.pairs_id),
        *curve_section(pipeline, night.trained),
    ]
    report = markdown(night, sample_answers(pipeline, release), learning)
    assert not unseen(report.replace("\n", ""))
    shown = re.sub(r"!\[[^\]]*\]\(data:image/webp;base64,[A-Za-z0-9+/=]+\)", "", report)
    assert len(re.findall(r"!\[", report)) == len(re.findall(r"base64", report))
    assert not re.search(r"(?<!\\)[<`\[\]]", shown.replace(f"`{night.model_id}`", ""))


def test_card_is_made_of_nothing_of_theirs(released: tuple[Path, Night]) -> None:
    file, night = released
    model = load_pipeline(file).folder / "models" / str(night.model_id)
    card = (model / "README.md").read_text(encoding="utf-8")
    assert "recall@10/colour" in card.replace("\\", "")
    assert Tags(card).found == []
    assert not unseen(card.replace("\n", ""))
    table = [line for line in card.splitlines() if line.startswith("|")]
    assert {len(re.findall(r"(?<!\\)\|", line)) for line in table} == {5}
    json.loads((model / "pairloom.json").read_text(encoding="utf-8"))


COMMANDS: dict[str, list[str]] = {
    "search": ["search", "<script>alert(1)</script>"],
    "search of a hostile text": ["search", "\x1b[31mred\u202e"],
    "search by item": ["search", "--like", "0 <script>alert(1)</script>"],
    "sql": ["sql", 'SELECT item_id, texts, colour, "group", path FROM items'],
    "sql of hostile columns": ["sql", 'SELECT 1 AS "\x1b[31m<b>", item_id AS "a|b" FROM items'],
    "sql in blocks": ["sql", "FROM items", "--vertical"],
    "classes": ["classes"],
    "classes of a column": ["classes", "--column", "colour"],
    "status": ["status"],
    "releases": ["releases"],
    "show": ["show", "1"],
}


def run(released: tuple[Path, Night], *arguments: str) -> Any:
    result = CliRunner().invoke(app, [*arguments, "--file", str(released[0])])
    assert result.exit_code == 0, result.stderr
    return result


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_show_nothing_that_is_obeyed(released: tuple[Path, Night], command: str) -> None:
    result = run(released, *COMMANDS[command])
    assert not unseen(re.sub(r"\x1b\[[0-9;]*m", "", result.stdout + result.stderr).replace("\n", ""))
    assert "\x1b[31m" not in result.stdout


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_print_one_valid_line_of_json(released: tuple[Path, Night], command: str) -> None:
    printed = run(released, *COMMANDS[command], "--json").stdout
    assert printed.count("\n") == 1
    assert not unseen(printed.removesuffix("\n"))
    json.loads(printed, parse_constant=lambda constant: pytest.fail(constant))


def test_page_of_hits_is_made_of_nothing_of_theirs(released: tuple[Path, Night], tmp_path: Path) -> None:
    page = tmp_path / "hits.html"
    run(released, "search", '"><svg onload=alert(1)>', "-k", "60", "--html", str(page))
    written = page.read_text(encoding="utf-8")
    assert not unseen(written.replace("\n", ""))
    tags = Tags(written).found
    assert {name for name, _ in tags} <= {
        *("html", "head", "meta", "title", "style", "body", "main", "h1", "h2", "div", "section", "ol", "li", "img"),
        *("span", "bdi", "svg", "image", "g", "circle", "text", "details", "summary", "p"),
    }
    assert not {attribute for _, attributes in tags for attribute in attributes if attribute.startswith("on")}
    assert sum(name == "img" for name, _ in tags) == 60


def test_errors_name_hostile_values_without_obeying_them(released: tuple[Path, Night]) -> None:
    for arguments in (
        ["search", "--like", "\x1b[31mnobody\u202e"],
        ["search", "red", "--where", "colour = '\x1b[31m"],
        ["sql", 'SELECT "\x1b[31mnothing" FROM items'],
        ["classes", "--column", "\x1b[31mx"],
        ["status", "-p", "\x1b[31mx\u202e"],
    ):
        result = CliRunner().invoke(app, [*arguments, "--file", str(released[0])])
        assert result.exit_code == 2
        assert not unseen(result.stderr.replace("\n", ""))
