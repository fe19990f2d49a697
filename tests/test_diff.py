"""What two releases differ in: rows, models, metrics, and how their answers moved; against the slow, obvious answer."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner, Result

from pairloom.flows.cli import app
from pairloom.flows.cli.comparing import golden_queries
from pairloom.flows.config import load_pipeline
from pairloom.flows.nightly import nightly
from pairloom.search.answer_diff import Questions, compare_answers, overlap, places_moved, sampled_texts
from pairloom.search.query import Query, search
from pairloom.search.release import OpenRelease
from pairloom.storage.corpus import Corpus
from pairloom.storage.releases import release_log, roll_back

WritePipelines = Callable[..., Path]
HOSTILE = "a \x1b[31mred\x1b[0m <b>square</b>"


def change(file: Path, edit: Callable[[list[dict[str, Any]]], list[dict[str, Any]]]) -> None:
    captions = file.parent / "shapes" / "captions.jsonl"
    rows = edit([json.loads(line) for line in captions.read_text("utf-8").splitlines()])
    captions.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def edited(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """One row gone, one new, one with another text and size, one with another picture, one with another colour."""
    rows[0] |= {"text": HOSTILE, "size": 7}
    rows[1] |= {"image": rows[2]["image"]}
    rows[3] |= {"colour": "pale red"}
    return [*rows[:-1], rows[-1] | {"id": "new", "text": "a new one", "image": rows[5]["image"]}]


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory, shapes: Path, write_pipelines: WritePipelines) -> Path:
    """A pipeline with four releases: a first one, new rows with the same model, another model, back to the first."""
    folder = tmp_path_factory.mktemp("four")
    shutil.copytree(shapes, folder / "shapes")
    blocks = {"gate": {"first": "none", "max_regression": 1.0}, "ingest": {"max_side": 32, "workers": 1}}
    file = write_pipelines(folder, folder / "shapes", **blocks)
    assert nightly(load_pipeline(file)).release == 1
    change(file, edited)
    assert nightly(load_pipeline(file, overrides=["retrain.min_new_fraction=1"])).release == 2
    assert nightly(load_pipeline(file, overrides=["training.seed=1", "training.max_steps=9"])).release == 3
    assert roll_back(file.parent / "stored" / "shapes", 1).number == 4
    return file


def invoke(file: Path, *arguments: str) -> Result:
    return CliRunner().invoke(app, ["diff", *arguments, "--file", str(file)], env={"COLUMNS": "80"})


def document(file: Path, *arguments: str) -> Any:
    done = invoke(file, *arguments, "--json")
    assert done.exit_code == 0, done.stderr
    return json.loads(done.stdout)


def test_rows_are_counted_by_what_changed_and_shown_with_what_they_said(file: Path) -> None:
    rows = document(file, "1", "2", "--queries", "0")["rows"]
    ids = [json.loads(line)["id"] for line in (file.parent / "shapes" / "captions.jsonl").read_text().splitlines()]
    assert (rows["before"], rows["after"]) == (60, 60)
    shown = {
        name: {
            each["item_id"]: {v["column"]: (v["before"], v["after"]) for v in each["values"]}
            for each in kind["examples"]
        }
        for name, kind in rows.items()
        if isinstance(kind, dict)
    }
    assert {name: rows[name]["count"] for name in shown} == {
        "added": 1, "removed": 1, "texts": 1, "pictures": 1, "metadata": 2,
    }  # fmt: skip
    assert shown["added"] == {"new": {"texts": (None, ["a new one"])}}
    (gone,) = shown["removed"].values()
    assert gone["texts"][1] is None
    assert shown["texts"][ids[0]]["texts"][1] == [HOSTILE]
    assert list(shown["pictures"]) == [ids[1]]
    assert shown["metadata"] == {ids[0]: {"size": (20, 7)}, ids[3]: {"colour": ("red", "pale red")}}


def test_model_settings_and_metrics_stand_side_by_side(file: Path) -> None:
    same, other, back = (document(file, *pair, "--queries", "0") for pair in (("1", "2"), ("2", "3"), ("3", "4")))
    records = {number: release_log(file.parent / "stored" / "shapes").read(number) for number in (1, 2, 3, 4)}
    assert (same["same_model"], same["settings"]) == (True, [])
    assert {metric["difference"] for metric in same["metrics"]} == {0.0}
    assert other["same_model"] is False
    assert other["settings"] == [
        {"key": "training.max_steps", "before": 6, "after": 9},
        {"key": "training.seed", "before": 0, "after": 1},
    ]
    assert other["after"]["trained_on"] == records[3].snapshot
    assert other["after"]["parent"] == records[1].model_id == back["after"]["model_id"]
    assert back["after"]["trained_at"] == same["before"]["trained_at"] != other["after"]["trained_at"]
    found = {metric["name"]: metric for metric in other["metrics"]}
    assert set(found) == {*records[2].metrics, *records[3].metrics}
    name = "text_to_image_ndcg@10"
    assert found[name]["before_interval"] == list(records[2].intervals[name])
    assert found[name]["difference"] == pytest.approx(records[3].metrics[name] - records[2].metrics[name])


def test_a_challenger_that_was_held_is_not_when_the_served_model_was_trained(file: Path, tmp_path: Path) -> None:
    shutil.copytree(file.parent / "stored", tmp_path / "stored")
    shutil.copy(file, tmp_path)
    log = release_log(tmp_path / "stored" / "shapes")
    newest = log.read(4)
    held = newest.training.model_copy(update={"verdict": "held", "trained_at": newest.created_at})
    log.publish(newest.model_copy(update={"number": 5, "training": held}))
    sides = document(tmp_path / "pipelines.yaml", "1", "5", "--queries", "0")
    assert sides["after"]["trained_at"] == sides["before"]["trained_at"]


def test_each_release_is_asked_with_its_own_model_and_moves_are_counted_as_a_plain_loop_does(file: Path) -> None:
    before, after = (OpenRelease.open(file.parent / "stored" / "shapes", number) for number in (2, 3))
    questions = Questions([Query(text="a red circle"), Query(like="large-red-circle")], sampled=4, seed=3)
    texts = sampled_texts((before, after), questions)
    assert texts == sampled_texts((before, after), questions)
    assert len(texts) == 4
    heard: list[tuple[int, int]] = []
    found = compare_answers(before, after, questions, lambda done, total: heard.append((done, total)))
    assert heard == [(number, 6) for number in range(7)]
    shares, moves = [], []
    for query in [*questions.golden, *(Query(text=text) for text in texts)]:
        old, new = ([hit.item_id for hit in search(release, query).hits] for release in (before, after))
        shares.append(len([item for item in old if item in new]) / 10)
        places = [
            abs((old.index(item) if item in old else 10) - (new.index(item) if item in new else 10))
            for item in {*old, *new}
        ]
        moves.append(sum(places) / len(places))
        for each in found.most:
            if each.query == query.title:
                assert [hit.item_id for hit in each.before] == old
                assert [hit.item_id for hit in each.after] == new
    assert (found.golden, found.sampled) == (2, 4)
    assert found.overlap == pytest.approx(sum(shares) / 6)
    assert found.moved == pytest.approx(sum(moves) / 6)
    assert found.unchanged == moves.count(0)
    assert [each.moved for each in found.most] == pytest.approx(sorted(filter(None, moves), reverse=True)[:5])


def test_nothing_moves_between_a_release_and_the_rollback_to_it(file: Path) -> None:
    found = document(file, "1", "4")
    assert found["rows"]["added"] == found["rows"]["metadata"] == {"count": 0, "examples": []}
    assert (found["answers"]["overlap"], found["answers"]["moved"], found["answers"]["most"]) == (1.0, 0.0, [])
    assert found["answers"]["sampled"] == found["answers"]["unchanged"] > 0


def test_golden_queries_of_the_file_are_asked_and_what_one_release_lacks_is_told(file: Path, tmp_path: Path) -> None:
    block = yaml.safe_load(file.read_text())
    golden = [{"text": "a red circle", "find": ["x"]}, {"like": "new", "find": ["y"]}, {"image": "shapes/a.png"}]
    block["pipelines"]["shapes"]["evaluation"] = {"golden": golden}
    own = tmp_path / "pipelines.yaml"
    own.write_text(yaml.safe_dump(block | {"root": str(file.parent / "stored")}))
    assert golden_queries(own, None) == [
        Query(text="a red circle"), Query(like="new"), Query(image=tmp_path / "shapes" / "a.png"),
    ]  # fmt: skip
    block["pipelines"]["shapes"]["evaluation"] = {"golden": golden[:2]}
    own.write_text(yaml.safe_dump(block | {"root": str(file.parent / "stored")}))
    answers = document(own, "1", "2", "--queries", "0")["answers"]
    assert (answers["golden"], answers["sampled"]) == (2, 0)
    (lacking,) = (each for each in answers["most"] if each["query"] == "like new")
    assert lacking["error"] == "release 1: release 1 has no item 'new'"
    assert (lacking["golden"], lacking["before"], len(lacking["after"])) == (True, [], 10)
    assert "release 1 has no item 'new'" in invoke(own, "1", "2", "--queries", "0").stdout


def test_what_is_shown_fits_the_terminal_and_obeys_no_caption(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pairloom.flows.show.console.out.width", 80)
    for pair in (("2", "3"), ("1", "2"), ("1", "1")):
        shown = invoke(file, *pair)
        assert shown.exit_code == 0, shown.output
        assert max(map(len, shown.stdout.splitlines())) <= 80
        assert "\x1b" not in shown.stdout
    assert "the same items" in shown.stdout
    assert "<b>square</b>" in "".join(invoke(file, "1", "2").stdout.split("\n"))


def test_a_release_that_cannot_be_compared_is_told_with_those_that_can(file: Path, tmp_path: Path) -> None:
    shutil.copytree(file.parent / "stored", tmp_path / "stored")
    shutil.copy(file, tmp_path)
    own, folder = tmp_path / "pipelines.yaml", tmp_path / "stored" / "shapes"
    missing = invoke(own, "1", "9")
    assert missing.exit_code == 2
    assert "error: no release 9: there are 1, 2, 3, 4; can be compared: 1, 2, 3, 4" in missing.stderr
    (weights,) = (folder / "models" / release_log(folder).read(3).model_id).glob("*.safetensors")
    weights.unlink()
    damaged = invoke(own, "3", "4")
    assert damaged.exit_code == 1
    assert "release 3 is not whole" in damaged.stderr
    assert "can be compared: 1, 2, 4" in damaged.stderr
    corpus = Corpus(folder)
    for part in corpus.log.read(2).parts:
        if part not in corpus.log.read(1).parts:
            corpus.part_path(part).unlink()
    gone = invoke(own, "1", "2")
    assert gone.exit_code == 1
    assert "the rows of release 2 can't be told: snapshot 2 is not whole" in gone.stderr


def test_overlap_and_moves_of_short_lists() -> None:
    assert (overlap([], []), places_moved([], [])) == (1.0, 0.0)
    assert (overlap(["a"], []), places_moved(["a"], [])) == (0.0, 10.0)
    assert overlap([*"abc"], [*"acb"]) == 1.0
    assert places_moved([*"abc"], [*"acb"]) == pytest.approx(2 / 3)
