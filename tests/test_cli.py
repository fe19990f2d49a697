"""The command line as a person meets it: documents on standard output, one clear line on errors, exit statuses."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import typer
from PIL import Image
from typer.testing import CliRunner, Result

import pairloom
from pairloom.flows.cli import app
from pairloom.flows.cli.answers import errors_in_one_line, print_json

WritePipelines = Callable[..., Path]


def invoke(*arguments: str) -> Result:
    # The terminal's width: what a person sees must not be folded in the middle of a word the tests look for.
    return CliRunner().invoke(app, list(arguments), env={"COLUMNS": "200"})


def document(*arguments: str) -> Any:
    result = invoke(*arguments, "--json")
    assert result.exit_code == 0, result.stderr
    return json.loads(result.stdout)


def error(status: int, *arguments: str) -> str:
    """The one line on standard error of a command that must fail."""
    result = invoke(*arguments)
    assert result.exit_code == status, result.output
    lines = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1, result.stderr
    assert "Traceback" not in result.stderr
    return lines[0]


@pytest.fixture(scope="module")
def released(first_night: Path) -> tuple[str, ...]:
    """Options that name a pipeline with a release; tests only read it."""
    return ("--file", str(first_night / "pipelines.yaml"))


@pytest.fixture
def fresh(tmp_path: Path, shapes: Path, write_pipelines: WritePipelines) -> tuple[str, ...]:
    """Options that name a pipeline that never ran, over a collection that a test may change."""
    shutil.copytree(shapes, tmp_path / "shapes")
    return ("--file", str(write_pipelines(tmp_path, tmp_path / "shapes")))


def test_run_prints_one_json_document_of_the_promised_shape(released: tuple[str, ...]) -> None:
    night = document("run", *released)
    assert list(night) == [
        "pipeline",
        "as_of",
        "outcome",
        "release",
        "model_id",
        "measured_model",
        "reason",
        "rows",
        "metrics",
        "floor",
        "seconds",
        "slices",
    ]
    counted = ["seen", "new", "updated", "duplicate", "filtered", "quarantined", "removed", "removals_held", "served"]
    assert list(night["rows"]) == counted
    assert (night["pipeline"], night["outcome"], night["release"]) == ("shapes", "unchanged", 1)


def test_search_prints_one_json_document_of_the_promised_shape(released: tuple[str, ...]) -> None:
    found = document("search", "a large red circle", "-k", "3", "--where", "colour = 'red' AND size > 20", *released)
    assert list(found) == ["release", "model_id", "unmet_words", "hits"]
    assert len(found["hits"]) == 3
    assert list(found["hits"][0]) == ["item_id", "score", "texts", "path", "colour", "size"]
    assert {hit["colour"] for hit in found["hits"]} == {"red"}


def test_where_no_release_is_whole_everything_fails_and_names_the_files(
    released: tuple[str, ...], tmp_path: Path
) -> None:
    folder = Path(released[1]).parent
    root = tmp_path / "stored"
    shutil.copytree(folder / "stored", root)
    (weights,) = root.glob("shapes/models/*/open_clip_model.safetensors")
    weights.unlink()
    for command in (["run"], ["search", "red"], ["sql", "SELECT 1"], ["status"], ["evaluate"]):
        said = error(1, *command, *released, "--root", str(root))
        assert "none of the 1 releases of" in said
        assert "open_clip_model.safetensors is missing" in said
    assert len(list(root.glob("shapes/releases/*"))) == 1


def test_the_state_of_one_pipeline_stands_whatever_is_wrong_with_another(
    released: tuple[str, ...], tmp_path: Path
) -> None:
    stored = Path(released[1]).parent / "stored" / "shapes"
    for name in ("first", "last"):
        shutil.copytree(stored, tmp_path / name)
    (tmp_path / "first" / "releases" / "000001.json").write_bytes(b"{")
    file = tmp_path / "pipelines.yaml"
    file.write_text(json.dumps({"root": ".", "pipelines": {"first": {}, "last": {}, "never": {}}}))
    told = invoke("status", "--json", "--file", str(file))
    assert told.exit_code == 1
    first, last, never = json.loads(told.stdout)
    assert list(first) == ["pipeline", "folder", "error"]
    assert "000001.json is damaged" in first["error"]
    assert (last["release"], last["served"], never["release"]) == (1, 60, None)
    shown = invoke("status", "--file", str(file))
    assert shown.exit_code == 1
    assert shown.stdout.index("error        none of the 1 releases") < shown.stdout.index("served       60")
    assert error(1, "status", "--file", str(file)).startswith("error: first: none of the 1 releases of")


def test_reranking_without_a_cross_encoder_or_candidates_without_reranking_are_refused(
    released: tuple[str, ...],
) -> None:
    assert "has no cross-encoder to re-rank with" in error(2, "search", "red", "--rerank", *released)
    assert "give --rerank too" in error(2, "search", "red", "--candidates", "20", *released)


def test_a_night_trains_a_cross_encoder_and_search_reranks_with_it(
    tmp_path: Path, shapes: Path, write_pipelines: WritePipelines
) -> None:
    file = write_pipelines(tmp_path, shapes, objective=[{"loss": "clip"}, {"loss": "cross_encoder", "anchors": 8}])
    assert document("run", "--file", str(file))["outcome"] == "released"
    found = document("search", "a large red circle", "-k", "5", "--rerank", "--file", str(file))["hits"]
    scores = [hit["rerank_score"] for hit in found]
    assert scores == sorted(scores, reverse=True)
    again = document("search", "a large red circle", "-k", "60", "--rerank", "--candidates", "60", "--file", str(file))
    assert again["hits"][0]["rerank_score"] >= scores[0]
    by_image = document("search", "--image", str(shapes / "large-red-circle.png"), "--rerank", "--file", str(file))
    assert "rerank_score" in by_image["hits"][0]


def test_search_by_image_by_item_and_by_sums_of_texts(released: tuple[str, ...], shapes: Path) -> None:
    image = shapes / "large-red-circle.png"
    assert document("search", "--image", str(image), *released)["hits"][0]["item_id"] == "large-red-circle"
    like = document("search", "--like", "large-red-circle", "-k", "60", *released)["hits"]
    assert len(like) == 59
    assert "large-red-circle" not in [hit["item_id"] for hit in like]
    assert document("search", "red", "--plus", "circle", "--minus", "square", *released)["hits"]
    heavy = ("--plus", "blue", "--minus", "red", "--text-weight", "9", "-k", "1")
    hits = document("search", "--like", "large-red-circle", *heavy, *released)["hits"]
    far = document("search", "--like", "large-red-circle", *heavy, "--metric", "euclidean", *released)["hits"]
    assert far[0]["item_id"] == hits[0]["item_id"]
    assert far[0]["score"] == pytest.approx((2 - 2 * hits[0]["score"]) ** 0.5, abs=1e-4)


def test_search_writes_a_page_with_the_pictures(released: tuple[str, ...], tmp_path: Path) -> None:
    page = tmp_path / "hits.html"
    assert invoke("search", "<b>red</b>", "--html", str(page), *released).exit_code == 0
    text = page.read_text(encoding="utf-8")
    assert "data:image/webp;base64," in text
    assert "&lt;b&gt;red&lt;/b&gt;" in text
    assert "<b>red</b>" not in text


def test_sql_lists_row_objects(released: tuple[str, ...]) -> None:
    counted = document("sql", "SELECT colour, count(*) AS n FROM items GROUP BY colour ORDER BY colour", *released)
    assert counted[0] == {"colour": "black", "n": 10}
    nearest = "SELECT item_id FROM search('red', k := 5) ORDER BY similarity(image_vector, 'red') DESC"
    found = document("search", "red", "-k", "5", *released)["hits"]
    assert [row["item_id"] for row in document("sql", nearest, *released)] == [hit["item_id"] for hit in found]


def test_sql_reads_what_is_attached_and_names_no_image_without_a_folder(
    released: tuple[str, ...], shapes: Path, tmp_path: Path
) -> None:
    (tmp_path / "prices.csv").write_text("item_id,price\nlarge-red-circle,3\n")
    joined = "SELECT item_id, price FROM items JOIN prices USING (item_id)"
    attach = ("--attach", f"prices={tmp_path / 'prices.csv'}")
    [row] = document("sql", joined, *attach, *released)
    assert (row["item_id"], row["price"]) == ("large-red-circle", 3)
    alike = "SELECT item_id FROM search_image('large-red-circle.png', k := 3)"
    assert "--image-folder" in invoke("sql", alike, *released).stderr
    found = document("sql", alike, "--image-folder", str(shapes), *released)
    hits = document("search", "--image", str(shapes / "large-red-circle.png"), "-k", "3", *released)["hits"]
    assert [each["item_id"] for each in found] == [each["item_id"] for each in hits]


def test_sql_writes_to_the_file_it_is_told_and_asks_the_release_it_is_told(
    released: tuple[str, ...], tmp_path: Path
) -> None:
    out = tmp_path / "rows.csv"
    told = document("sql", "SELECT item_id FROM items", "--out", str(out), "--release", "1", *released)
    assert told == {"file": str(out), "rows": 60}
    assert len(out.read_text("utf-8").splitlines()) == 61
    for command in (["sql", "SELECT 1"], ["search", "red"]):
        result = invoke(*command, "--release", "7", *released)
        assert (result.exit_code, "no release 7" in result.stderr) == (2, True)


def test_sql_knows_releases_metrics_quarantine_and_pairs_as_the_commands_do(released: tuple[str, ...]) -> None:
    shown = document("show", "1", *released)
    [release] = document("sql", "SELECT release, model_id, rows, asked FROM releases", *released)
    assert release == {"release": 1, "model_id": shown["model_id"], "rows": shown["rows"], "asked": True}
    measured = document("sql", "SELECT metric, slice, value, low, high FROM metrics", *released)
    told = {each["metric"]: each for each in measured if not each["slice"]}
    assert {name: each["value"] for name, each in told.items()} == shown["metrics"]
    assert {name: [told[name]["low"], told[name]["high"]] for name in shown["intervals"]} == shown["intervals"]
    assert document("sql", "FROM quarantine", *released) == document("quarantine", *released)["rows"]
    [pairs] = document("sql", "SELECT count(*) AS n FROM pairs p JOIN items i ON p.anchor = i.item_id", *released)
    assert pairs["n"] > 0


def test_what_is_wider_than_the_terminal_is_shown_in_blocks(
    released: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pairloom.flows.show.console.out.width", 80)
    wide, narrow = "FROM items LIMIT 2", "SELECT item_id, width FROM items LIMIT 2"
    for statement, option, blocks in (
        (wide, (), True),
        (narrow, (), False),
        (narrow, ("--vertical",), True),
        (wide, ("--table",), False),
    ):
        shown = invoke("sql", statement, *option, *released).stdout
        assert ("row 2 of 2" in shown) is blocks
        assert max(map(len, shown.splitlines())) <= 80


def test_status_releases_and_show_agree(released: tuple[str, ...]) -> None:
    (state,) = document("status", *released)
    (listed,) = document("releases", *released)
    shown = document("show", "1", *released)
    assert state["release"] == listed["release"] == shown["number"] == 1
    assert state["model_id"] == listed["model_id"] == shown["model_id"]
    low, high = shown["intervals"]["text_to_image_recall@10"]
    assert low <= shown["metrics"]["text_to_image_recall@10"] <= high
    assert (state["items"], state["served"], state["up_to_date"]) == (60, 60, True)


@pytest.mark.parametrize(
    "command",
    [["status"], ["releases"], ["show", "1"], ["search", "red"], ["sql", "SELECT 1 AS a"], ["sql", "FROM items"]],
)
def test_what_is_shown_to_people_fits_the_terminal(
    released: tuple[str, ...], command: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pairloom.flows.show.console.out.width", 80)
    result = invoke(*command, *released)
    assert result.exit_code == 0
    folder = released[1].removesuffix("/pipelines.yaml")
    assert max(len(line) for line in result.stdout.splitlines() if folder not in line) <= 80


def test_stages_one_by_one_end_in_a_release_that_can_be_rolled_back_to(fresh: tuple[str, ...]) -> None:
    for stage in ("ingest", "mine", "train", "evaluate", "embed"):
        assert isinstance(document(stage, *fresh), dict)
    assert document("publish", *fresh)["number"] == 1
    assert document("rollback", "1", *fresh)["rolled_back_to"] == 1
    assert [row["release"] for row in document("releases", *fresh)] == [2, 1]


def test_removals_that_are_held_are_let_go_where_a_person_accepts_them(fresh: tuple[str, ...]) -> None:
    document("ingest", *fresh)
    captions = Path(fresh[1]).parent / "shapes" / "captions.jsonl"
    captions.write_text("".join(captions.read_text("utf-8").splitlines(keepends=True)[:40]), encoding="utf-8")
    held = document("ingest", *fresh)
    assert (held["rows"], held["rows_seen"]["removals_held"]) == (60, 20)
    assert "20 of 60 items of shapes/captions would leave" in held["removals_held"][0]
    let_go = document("ingest", "--accept-removals", *fresh)
    assert (let_go["rows"], let_go["removals_held"]) == (40, [])
    night = document("run", "--accept-removals", *fresh)
    assert (night["outcome"], night["rows"]["served"]) == ("released", 40)


def test_a_held_night_exits_3(fresh: tuple[str, ...]) -> None:
    result = invoke("run", "--set", "gate.min.text_to_image_recall@1=1.0", "--json", *fresh)
    assert result.exit_code == 3
    assert json.loads(result.stdout)["outcome"] == "held"


def test_a_failed_night_says_so_in_its_document_and_exits_1(fresh: tuple[str, ...]) -> None:
    result = invoke("run", "--set", "sources.0.where=1 = 0", "--json", *fresh)
    assert result.exit_code == 1
    night = json.loads(result.stdout)
    assert night["outcome"] == "failed"
    assert "of 60 rows none became one: 60 filtered by `where`" in night["reason"]
    assert night["rows"] == {**dict.fromkeys(night["rows"], 0), "seen": 60, "filtered": 60}


def test_a_bad_row_or_image_costs_only_itself(fresh: tuple[str, ...]) -> None:
    folder = Path(fresh[1]).parent / "shapes"
    rows = ['{"id": "no image", "text": "a", "group": "a", "colour": "a", "size": 1}', "{", '"text"']
    rows += [
        json.dumps({"id": text, "image": image, "text": text, "group": None, "colour": "a", "size": 1})
        for text, image in (("", "small-red-circle.png"), ("broken", "broken.png"), ("outside", "../../secret.png"))
    ]
    (folder / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n but no picture")
    with (folder / "captions.jsonl").open("a") as captions:
        captions.write("\n".join(rows))
    night = document("run", *fresh)
    assert night["rows"]["seen"] == 66
    assert (night["rows"]["new"], night["rows"]["quarantined"], night["rows"]["served"]) == (60, 6, 60)


@pytest.mark.parametrize(
    ("status", "said", "arguments"),
    [
        (2, "no pipeline 'shaeps'; did you mean 'shapes'?", ["run", "-p", "shaeps"]),
        (2, "unknown key 'training.max_stepz'; did you mean 'max_steps'?", ["run", "--set", "training.max_stepz=1"]),
        (2, "training.max_steps: Input should be a valid integer", ["run", "--set", "training.max_steps=soon"]),
        (2, "column grup that `columns.group` names: did you mean group?", ["run", "--set", "columns.group=grup"]),
        (2, "absent.jsonl", ["run", "--set", "sources.0.path=absent.jsonl"]),
        (2, "skin_tone", ["run", "--set", "sources.0.where=skin_tone = 'none'"]),
        (2, "nothing is called 'tiny-65'; nearest: tiny-64", ["run", "--set", "model.architecture=tiny-65"]),
        (2, "gate.min: recall@10 isn't measured", ["run", "--set", "gate.min.recall@10=0.5"]),
        (2, "lower is better", ["run", "--set", "gate.min.text_to_image_median_rank=5"]),
        (2, "novel_group is a slice of Pairloom's own", ["run", "--set", "evaluation.slices=[novel_group]"]),
        (2, "no release yet: run `pairloom run -p shapes`", ["search", "red"]),
        (2, "no release yet: run `pairloom run -p shapes`", ["sql", "SELECT 1"]),
        (2, "no release 4: there are none", ["show", "4"]),
        (2, "no release 4: there are none", ["rollback", "4"]),
        (2, "has not run on this snapshot: run `pairloom mine`", ["train"]),
    ],
)
def test_bad_input_to_a_fresh_pipeline(fresh: tuple[str, ...], status: int, said: str, arguments: list[str]) -> None:
    if arguments[0] == "train":
        document("ingest", *fresh)
    assert said in error(status, *arguments, *fresh)


@pytest.mark.parametrize(
    ("said", "arguments"),
    [
        ("'colour =' is not a filter", ["search", "red", "--where", "colour ="]),
        ("columns are item_id", ["search", "red", "--where", "weight > 3"]),
        ("nothing to search for", ["search"]),
        ("the text weight is -1.0", ["search", "red", "--text-weight", "-1"]),
        ("no item 'nobody'", ["search", "--like", "nobody"]),
        ("absent.png", ["search", "--image", "absent.png"]),
        ("SELEC", ["sql", "SELEC 1"]),
        ("weight", ["sql", "SELECT weight FROM items"]),
        ("SELECT", ["sql", "COPY items TO 'stolen.csv'"]),
        ("disabled", ["sql", "SELECT * FROM read_text('/etc/hostname')"]),
    ],
)
def test_a_bad_query_is_one_clear_line(released: tuple[str, ...], said: str, arguments: list[str]) -> None:
    assert said in error(2, *arguments, *released)


def test_a_query_image_that_is_none_is_named(released: tuple[str, ...], tmp_path: Path) -> None:
    (tmp_path / "text.png").write_text("no picture")
    assert "text.png" in error(2, "search", "--image", str(tmp_path / "text.png"), *released)
    Image.new("RGBA", (300, 200), (255, 0, 0, 0)).save(tmp_path / "clear.png")
    assert document("search", "--image", str(tmp_path / "clear.png"), *released)["hits"]


def test_a_root_that_cannot_be_written_is_named(fresh: tuple[str, ...], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    said = error(2, "run", "--root", str(tmp_path / "file"), *fresh)
    assert f"can't write below {tmp_path / 'file' / 'shapes'}" in said


def test_a_missing_file_of_pipelines_is_named(tmp_path: Path) -> None:
    assert "no file" in error(2, "run", "--file", str(tmp_path / "absent.yaml"))


def test_an_unknown_option_is_bad_usage() -> None:
    assert invoke("run", "--fiel", "x").exit_code == 2


def test_every_command_has_help() -> None:
    for command in app.registered_commands:
        name = command.name or (command.callback.__name__ if command.callback else "")
        result = invoke(name, "--help")
        assert result.exit_code == 0
        assert len(result.stdout.splitlines()) > 5


def test_names_that_are_not_utf8_never_break_a_json_answer(capsys: pytest.CaptureFixture[str]) -> None:
    def fail() -> None:
        with errors_in_one_line(lambda reason: print_json({"reason": reason})):
            raise ValueError("no file caf\udce9.png")

    with pytest.raises(typer.Exit):
        fail()
    said = capsys.readouterr()
    assert json.loads(said.out.encode()) == {"reason": "no file caf\udce9.png"}
    assert said.err == "error: no file caf\\udce9.png\n"
    print_json(["\ud83d"])
    assert json.loads(capsys.readouterr().out) == ["\ud83d"]


NOBODYS = "0123456789abcdef"


@pytest.fixture
def littered(released: tuple[str, ...], tmp_path: Path) -> tuple[str, ...]:
    """Options that name a copy of the released pipeline, with a model that nothing names."""
    shutil.copytree(Path(released[1]).parent / "stored", tmp_path / "stored")
    (tmp_path / "stored" / "shapes" / "models" / NOBODYS).mkdir()
    (tmp_path / "stored" / "shapes" / "models" / NOBODYS / "weights").write_bytes(bytes(2**20))
    return (*released, "--root", str(tmp_path / "stored"))


def test_what_would_be_collected_is_what_goes(littered: tuple[str, ...], tmp_path: Path) -> None:
    model = tmp_path / "stored" / "shapes" / "models" / NOBODYS
    at_once = ("--set", "retention.grace_hours=0")
    assert document("collect-garbage", *littered)["garbage"] == [], "it is young"
    would = document("collect-garbage", "--dry-run", *littered, *at_once)
    assert list(would) == ["pipeline", "dry_run", "garbage", "kept"]
    named = {each["path"]: (each["kind"], each["files"], each["bytes"]) for each in would["garbage"]}
    assert named[f"models/{NOBODYS}"] == ("models", 1, 2**20)
    shown = invoke("collect-garbage", "--dry-run", *littered, *at_once).stdout
    assert "models" in shown
    assert "no kept release or run names its model" in shown
    assert "would go" in shown
    assert model.exists()
    gone = document("collect-garbage", *littered, *at_once)
    assert gone == {**would, "dry_run": False}
    assert not model.exists()
    assert invoke("collect-garbage", *littered, *at_once).stdout == "nothing to delete\n"
    assert len(document("search", "a red circle", *littered)["hits"]) == 10


def test_a_night_whose_collection_fails_has_ended_all_the_same(
    littered: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError("the disk is gone")

    monkeypatch.setattr("pairloom.tasks.collect.collect_garbage", full)
    night = invoke("run", *littered, "--set", "retention.grace_hours=0")
    assert night.exit_code == 0
    assert "no garbage is collected tonight: the disk is gone" in night.stderr
    assert "error: the disk is gone" in error(1, "collect-garbage", *littered)


def test_the_files_of_a_release_read_by_anybody_hold_its_items(fresh: tuple[str, ...], tmp_path: Path) -> None:
    document("ingest", *fresh)
    captions = tmp_path / "shapes" / "captions.jsonl"
    lines = captions.read_text("utf-8").splitlines()
    changed = {**json.loads(lines[0]), "text": "another text"}
    captions.write_text("\n".join([json.dumps(changed), *lines[1:59]]), encoding="utf-8")
    assert document("run", *fresh)["rows"]["served"] == 59
    files = document("show", "1", "--files", *fresh)
    assert [(each["rows"], len(each["gone"])) for each in files] == [(60, 2), (1, 0)]
    found: dict[str, list[str]] = {}
    for each in files:
        table = pq.read_table(each["path"], columns=["item_id", "texts"])
        found |= {row["item_id"]: row["texts"] for row in table.to_pylist() if row["item_id"] not in each["gone"]}
    assert len(found) == 59
    assert found[changed["id"]] == ["another text"]
    opened = pairloom.open(tmp_path / "stored").corpus_files
    assert [each.model_dump(mode="json") for each in opened] == files
    assert [each.living for each in opened] == [58, 1]
    shown = invoke("show", "1", "--files", *fresh).stdout
    assert "gone" in shown
    assert Path(files[0]["path"]).name in shown
