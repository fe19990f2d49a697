"""`pairloom search` and `pairloom shell` as people type them: options, columns, pages, pictures, hostile texts."""

import json
import os
import pty
import re
import select
import shlex
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import yaml
from released_pipeline import NAMES, picture, publish
from starlette.testclient import TestClient
from test_attack_texts import unseen
from typer.testing import CliRunner, Result

import pairloom
from pairloom.flows.cli import app
from pairloom.flows.shell import HELP
from pairloom.flows.shell_options import changed, said_of
from pairloom.search.options import Options
from pairloom.search.web.app import create_app
from pairloom.search.web.config import WebConfig
from pairloom.search.web.service import Service

EVIL = "\x1b]0;owned\x07\x1b[2J\u202e<script>alert(1)</script>"


@pytest.fixture(scope="module")
def options(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, ...]:
    folder = tmp_path_factory.mktemp("pipelines")
    publish(folder / "stored" / "fruits")
    publish(folder / "stored" / "evil", names=[EVIL, "red apple", "green pear"])
    file = folder / "pipelines.yaml"
    file.write_text(yaml.safe_dump({"root": "stored", "pipelines": {"fruits": {}, "evil": {}}}), encoding="utf-8")
    return ("-p", "fruits", "--file", str(file))


def invoke(*arguments: str, typed: str | None = None) -> Result:
    return CliRunner().invoke(app, list(arguments), input=typed, env={"COLUMNS": "160"})


def document(*arguments: str) -> Any:
    done = invoke("search", *arguments, "--json")
    assert done.exit_code == 0, done.stderr
    return json.loads(done.stdout)


def ids(*arguments: str) -> list[str]:
    return [hit["item_id"] for hit in document(*arguments)["hits"]]


def test_the_first_ten_minutes_are_as_they_are_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every command of the page but those that start a night or a service; what it asks a service is asked of one."""
    monkeypatch.chdir(tmp_path)
    publish(tmp_path / "stored" / "demo", names=NAMES[:20])
    publish(tmp_path / "stored" / "demo", number=2)
    Path("pipelines.yaml").write_text(yaml.safe_dump({"root": "stored", "pipelines": {"demo": {}}}), encoding="utf-8")
    Path(".pairloom/demo-icons").mkdir(parents=True)
    Path(".pairloom/demo-icons/captions.jsonl").write_text("{}\n" * 50, encoding="utf-8")
    text = (Path(__file__).parents[1] / "docs" / "first-ten-minutes.md").read_text(encoding="utf-8")
    commands = [line for block in re.findall(r"```\n(.*?)```", text, re.DOTALL) for line in block.splitlines()]
    assert len(commands) == 12
    service = create_app(Service(tmp_path / "stored" / "demo", WebConfig(seconds=240)))
    with TestClient(service, "http://127.0.0.1:8600") as client:
        for command in commands:
            program, *given = shlex.split(command)
            if program == "curl":
                (address,) = (each for each in given if each.startswith("http"))
                data = [each.split("=", 1) for at, each in enumerate(given) if given[at - 1] == "--data-urlencode"]
                assert client.get(address, params=dict(data) or None).status_code == 200, command
            elif program == "pairloom" and given[0] not in ("demo", "web", "run"):
                done = invoke(*given)
                assert done.exit_code == 0, (command, done.output)
            elif program != "pairloom":
                subprocess.run(["bash", "-c", command], check=True)
    assert Path("bells.csv").read_text(encoding="utf-8").startswith("item_id,text,score\n")
    assert len(Path(".pairloom/demo-icons/captions.jsonl").read_text(encoding="utf-8").splitlines()) == 10


def test_every_option_answers_as_python_does(options: tuple[str, ...], tmp_path: Path) -> None:
    file = tmp_path / "seven.png"
    file.write_bytes(picture(7))
    index = pairloom.open(Path(options[3]), "fruits")
    cases: list[tuple[list[str], dict[str, Any]]] = [
        (["red apple", "--offset", "5", "-k", "3"], {"text": "red apple", "offset": 5, "k": 3}),
        (["red apple", "--target", "text"], {"text": "red apple", "target": "text"}),
        (["red apple", "--hybrid", "-k", "4"], {"text": "red apple", "hybrid": True, "k": 4}),
        (["red apple", "--diversity", "0.6"], {"text": "red apple", "diversity": 0.6}),
        (["red", "--collapse-duplicates"], {"text": "red", "collapse_duplicates": True}),
        (["2:red", "--plus", "0.5:pear", "--minus", "fig"], {"text": "2:red", "plus": "0.5:pear", "minus": "fig"}),
        (["--image", str(file), "--plus", "red"], {"image": file, "plus": "red"}),
        (["red", "--column", "split", "--column", "price"], {"text": "red", "columns": ["split", "price"]}),
    ]
    for arguments, asked in cases:
        assert document(*arguments, *options) == json.loads(json.dumps(index.search(**asked).to_json()))


def test_several_images_may_be_weighted_by_their_names(options: tuple[str, ...], tmp_path: Path) -> None:
    for number in (3, 7):
        (tmp_path / f"{number}.png").write_bytes(picture(number))
    three, seven = str(tmp_path / "3.png"), str(tmp_path / "7.png")
    assert ids("--image", three, "--image", f"9:{seven}", "-k", "1", *options) == [NAMES[7]]
    assert ids("--image", f"9:{three}", "--image", seven, "-k", "1", *options) == [NAMES[3]]


def test_the_list_shows_own_columns_the_condition_and_the_page(
    options: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pairloom.flows.show.console.out.width", 140)
    done = invoke("search", "red apple", "--where", "subgroup = 'Apple'", "--offset", "2", "-k", "3", *options)
    assert done.exit_code == 0
    head, *rows, foot = done.stdout.rstrip().split("\n")
    assert head.split() == ["score", "item", "texts", "subgroup", "price", "seen", "tags"]
    assert [row.split()[-1] for row in rows] == ["apple"] * 3
    assert all(re.search(r" Apple +\d+ +2026-11-\d\d +tag, ", row) for row in rows)
    assert "where subgroup = 'Apple' · hits 3 to 5 · release 1" in foot
    chosen = invoke("search", "red apple", "--column", "split", *options).stdout
    assert chosen.splitlines()[0].split() == ["score", "item", "texts", "split"]


def test_the_page_shows_own_columns_and_the_condition(options: tuple[str, ...], tmp_path: Path) -> None:
    page = tmp_path / "hits.html"
    where = "subgroup = 'Apple'"
    assert invoke("search", "red apple", "--where", where, "--html", str(page), *options).exit_code == 0
    shown = page.read_text(encoding="utf-8")
    assert "where subgroup = &#x27;Apple&#x27;" in shown
    assert '<span class="name">subgroup</span> Apple' in shown


@pytest.mark.parametrize(
    ("said", "arguments"),
    [
        ("no column 'colour'; columns are item_id", ["red", "--column", "colour"]),
        ("hybrid search looks for words", ["--like", NAMES[0], "--hybrid"]),
        ("must be from 0 to", ["red", "--offset", "9999"]),
        ("must be above 0", ["red", "--plus", "0:pear"]),
        ("image absent.png", ["--image", "2:absent.png"]),
    ],
)
def test_what_cannot_be_asked_is_one_line(options: tuple[str, ...], said: str, arguments: list[str]) -> None:
    done = invoke("search", *arguments, *options)
    assert done.exit_code == 2
    assert said in done.stderr.splitlines()[-1]


def test_the_shell_answers_line_by_line_and_goes_on_after_errors(options: tuple[str, ...], tmp_path: Path) -> None:
    page, image = tmp_path / "hits.html", tmp_path / "seven.png"
    image.write_bytes(picture(7))
    lines = [
        ":k 2",
        "red apple",
        ":more",
        ":plus 2:pear",
        ":minus fig",
        f":image {image}",
        f":html {page}",
        f":like {NAMES[0]}",
        ":where subgroup = 'Fig'",
        "red apple",
        ":where",
        ":hybrid",
        "",
        "green fig",
        ":hybrid",
        ":columns price",
        ":offset 1",
        ":target text",
        ":again",
        ":options",
        ":sql SELECT count(*) AS n FROM items",
        ":refresh",
        ":help",
        ":k many",
        ":where no such",
        ":dance",
        ":like",
        ":columns colour",
        ":target words",
        ":diversity 2",
        ":quit",
        "never asked",
    ]
    done = invoke("shell", *options, typed="\n".join(lines))
    index = pairloom.open(Path(options[3]), "fruits")
    assert done.exit_code == 2
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert [line.partition(";")[0] for line in errors] == [
        "error: :k wants a number, not 'many'",
        "error: 'no such' is not a filter: " + errors[1].partition("filter: ")[2].partition(";")[0],
        "error: no command :dance",
        "error: :like wants an item_id",
        "error: no column 'colour'",
        "error: :target is image or text, not 'words'",
        "error: diversity is 2.0, must be from 0 to 1",
    ]
    tables = done.stdout.split("score  item")[1:]
    expected = [
        index.search("red apple", k=2),
        index.search("red apple", k=2, offset=2),
        index.search("red apple", k=2, plus="2:pear"),
        index.search("red apple", k=2, plus="2:pear", minus="fig"),
        index.search(image=image, k=2),
        index.search(like=NAMES[0], k=2),
        index.search("red apple", k=2, where="subgroup = 'Fig'"),
        index.search("green fig", k=2, hybrid=True),
        index.search("green fig", k=2, offset=1),
        index.search("green fig", k=2, target="text"),
    ]
    assert len(tables) == len(expected)
    for table, found in zip(tables, expected, strict=True):
        assert all(hit.item_id in table for hit in found.hits)
    assert str(len(NAMES)) in tables[-1]
    assert "release 1" in tables[-1]
    assert "columns price; target text;" in tables[-1]
    assert "price" in tables[-1].splitlines()[0]
    assert page.read_text(encoding="utf-8").count("<li>") == 2
    assert "never asked" not in done.stdout + done.stderr


def test_texts_with_escape_sequences_reach_neither_terminal_nor_page(options: tuple[str, ...], tmp_path: Path) -> None:
    evil, page = ("-p", "evil", *options[2:]), tmp_path / "hits.html"
    columns = ("--column", "tags", "--column", "texts", "--column", "group")
    lines = f"apple\n:like red apple\n:html {page}\n:sql SELECT * FROM items\n:where '{EVIL}'\n:{EVIL}\n"  # noqa: S608  # typed into a shell
    for status, done in (
        (0, invoke("search", "apple", *columns, *evil)),
        (0, invoke("search", EVIL, "--hybrid", "--where", f"item_id = '{EVIL}'", *evil)),
        (2, invoke("search", "red", "--column", EVIL, *evil)),
        (2, invoke("shell", *evil, typed=lines)),
    ):
        assert done.exit_code == status, done.stderr
        shown = (done.stdout + done.stderr).replace("\n", "")
        assert not unseen(shown)
    assert "\\x1b" in invoke("search", "apple", *evil).stdout
    assert not unseen(page.read_text(encoding="utf-8").replace("\n", ""))
    assert "<script" not in page.read_text(encoding="utf-8")
    index = pairloom.open(Path(options[3]), "evil")
    found = index.search("apple")
    assert not unseen(str(found).replace("\n", ""))
    assert "<script" not in found._repr_html_()


@pytest.mark.filterwarnings("ignore:Image.Image.getdata")  # textual-image's
def test_pictures_are_made_of_characters_where_they_are_wanted_and_nothing_better_is_there(
    options: tuple[str, ...],
) -> None:
    pytest.importorskip("textual_image")
    with_pictures = invoke("search", "red apple", "-k", "3", "--pictures", *options)
    assert with_pictures.exit_code == 0, with_pictures.stderr
    without = invoke("search", "red apple", "-k", "3", *options)
    assert len(with_pictures.stdout.splitlines()) > len(without.stdout.splitlines())
    assert not unseen(with_pictures.stdout.replace("\n", ""))


def test_every_option_of_a_search_is_one_of_the_shell() -> None:
    lines = [":k 3", ":where price < 5", ":columns price, brand", ":target text", ":metric euclidean", ":hybrid"]
    lines += [":rerank 20", ":diversity 0.3", ":collapse", ":hubness off", ":fitting"]
    options = Options()
    for line in lines:
        command, _, rest = line.partition(" ")
        options = changed(options, command, rest)
        assert f"{command} " in HELP
    wanted = {"k": 3, "where": "price < 5", "columns": ("price", "brand"), "target": "text", "metric": "euclidean"}
    wanted |= {"hybrid": True, "rerank": 20, "diversity": 0.3, "collapse_duplicates": True, "hubness": False}
    assert asdict(options) == wanted | {"only_fitting": True, "offset": 0}
    assert len(said_of(options)) == len(lines)
    for line in ["where", "columns", "hybrid", "diversity", "collapse", "hubness", "fitting", "rerank off"]:
        command, _, rest = line.partition(" ")
        options = changed(options, f":{command}", rest)
    assert options == Options(k=3, target="text", metric="euclidean")
    assert said_of(Options()) == []
    assert len(said_of(Options(), every=True)) == len(lines)


def test_the_shell_prompts_on_a_terminal(options: tuple[str, ...], tmp_path: Path) -> None:
    ours, theirs = pty.openpty()
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "TERM": "dumb"}
    command = [sys.executable, "-c", "from pairloom.flows.cli import main; main()", "shell", *options]
    with subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, env=environment, cwd=tmp_path) as shell:
        os.close(theirs)
        seen = b""
        for awaited, typed in ((b"fruits 1> ", b":hybrid\n"), (b"fruits 1 hybrid> ", b"\x04")):
            while awaited not in seen:
                assert select.select([ours], [], [], 120)[0], seen
                seen += os.read(ours, 65_536)
            os.write(ours, typed)
        assert shell.wait(60) == 0
    os.close(ours)
