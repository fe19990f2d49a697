"""Rejected rows as people meet them: counted, listed, exported, tried again; nights whose rows are mostly bad."""

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner, Result

from pairloom.flows.cli import app
from pairloom.flows.cli.answers import print_json
from pairloom.storage.corpus import Corpus, Snapshot
from pairloom.storage.exported import SUFFIXES, export
from pairloom.storage.ingestion.forgetting import forget_rejections
from pairloom.storage.quarantine import ReasonCount, RejectedRows, explained, require_reason, too_many
from pairloom.storage.reasons import Reason
from pairloom.storage.sources.likely_base import likely_base

WritePipelines = Callable[..., Path]

ROWS: list[dict[str, Any]] = [
    {"id": "gone", "image": "\x1b[31mgone.png", "text": "gone"},
    {"id": "=cmd()", "image": "gone too.png", "text": "gone"},
    {"id": "broken", "image": "broken.png", "text": "broken"},
    {"id": "small-red-circle", "image": "large-red-circle.png", "text": "another"},
    {"id": "twin", "image": "small-red-circle.png", "text": "a small red circle"},
    {"id": "silent", "image": "small-red-circle.png", "text": "\u200b"},
]
COUNTED = {
    "image-not-found": 2,
    "id-repeated": 1,
    "image-unreadable": 1,
    "text-control-characters": 1,
    "same-image-and-texts": 1,
}


def invoke(*arguments: str, width: int = 80) -> Result:
    return CliRunner().invoke(app, list(arguments), env={"COLUMNS": str(width)})


def document(*arguments: str) -> Any:
    result = invoke(*arguments, "--json")
    assert result.exit_code == 0, result.stderr
    return json.loads(result.stdout)


@pytest.fixture
def collection(tmp_path: Path, shapes: Path, write_pipelines: WritePipelines) -> Path:
    """A file of one pipeline over 60 good rows and `ROWS`, in a folder that a test may change."""
    shutil.copytree(shapes, tmp_path / "shapes")
    (tmp_path / "shapes" / "broken.png").write_bytes(b"no picture")
    with (tmp_path / "shapes" / "captions.jsonl").open("a", encoding="utf-8") as captions:
        for row in ROWS:
            captions.write(json.dumps({"group": None, "colour": "red", "size": 1, **row}) + "\n")
    return write_pipelines(tmp_path, tmp_path / "shapes")


@pytest.fixture
def ingested(collection: Path) -> tuple[str, ...]:
    """Options that name the pipeline, once its rows are ingested."""
    options = ("--file", str(collection))
    assert document("ingest", *options)["rows"] == 60
    return options


def folder_of(options: tuple[str, ...]) -> Path:
    return Path(options[1]).parent / "stored" / "shapes"


def current(options: tuple[str, ...]) -> tuple[Corpus, Snapshot]:
    corpus = Corpus(folder_of(options))
    return corpus, corpus.current()


def test_reasons_come_by_urgency_and_number_with_an_example_and_a_remedy(ingested: tuple[str, ...]) -> None:
    found = document("quarantine", *ingested)
    assert (found["pipeline"], found["items"], found["rejected"]) == ("shapes", 60, 6)
    assert {each["reason"]: each["rows"] for each in found["reasons"]} == COUNTED
    assert list(COUNTED) == [each["reason"] for each in found["reasons"]]
    first = found["reasons"][0]
    assert first["share"] == pytest.approx(2 / 66)
    assert first["example"].startswith("shapes/captions row 61: \x1b[31mgone.png in ")
    assert first["remedy"] == Reason.IMAGE_NOT_FOUND.remedy
    assert [row["row"] for row in found["rows"]] == [61, 62, 64, 63, 66, 65]
    assert {row["attempts"] for row in found["rows"]} == {1}
    assert all(row["first_seen"] <= row["last_seen"] == found["last_seen"] for row in found["rows"])


def test_a_reason_a_source_and_a_limit_choose_rows(ingested: tuple[str, ...]) -> None:
    found = document("quarantine", "--reason", "image-not-found", "--limit", "1", *ingested)
    assert [row["row"] for row in found["rows"]] == [61]
    assert [(each["reason"], each["rows"]) for each in found["reasons"]] == [("image-not-found", 2)]
    assert document("quarantine", "--source", "shapes/captions", "--limit", "99", *ingested)["rows"][5]["row"] == 65
    assert document("quarantine", "--source", "another", *ingested)["reasons"] == []
    assert "no such rows" in invoke("quarantine", "--reason", "where", *ingested).stdout


def test_an_unknown_reason_is_refused_with_what_may_be_meant(ingested: tuple[str, ...]) -> None:
    result = invoke("quarantine", "--reason", "image-notfound", *ingested)
    assert result.exit_code == 2
    assert "there is no reason 'image-notfound': did you mean image-not-found" in result.stderr
    with pytest.raises(ValueError, match="there are malformed-row, "):
        require_reason("xyzzy")
    require_reason("where")


def test_what_is_shown_fits_a_terminal_and_moves_no_cursor(
    ingested: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pairloom.flows.show.console.out.width", 80)
    shown = invoke("quarantine", *ingested).stdout
    assert max(map(len, shown.splitlines())) <= 80
    assert "\\x1b[31mgone.png" in shown
    assert not set(shown) & {"\x1b", "\u200b"}
    assert "6 of 66 rows are no items" in shown
    assert "1 row more" in invoke("quarantine", "--limit", "5", *ingested).stdout


def test_half_of_a_surrogate_pair_breaks_no_document(capsys: pytest.CaptureFixture[str]) -> None:
    print_json({"name": "a\udc80.png", "path": "b\\c"})
    written = capsys.readouterr().out
    assert json.loads(written.encode()) == {"name": "a\udc80.png", "path": "b\\c"}


def test_all_formats_hold_the_same_rows(ingested: tuple[str, ...], tmp_path: Path) -> None:
    for suffix in SUFFIXES:
        exported = document("quarantine", "--export", str(tmp_path / f"rows{suffix}"), "--limit", "0", *ingested)
        assert (exported["exported"], exported["rows"]) == (6, [])
    listed = document("quarantine", *ingested)["rows"]
    lines = (tmp_path / "rows.jsonl").read_text(encoding="utf-8").splitlines()
    stored = pq.read_table(tmp_path / "rows.parquet").to_pylist()
    with (tmp_path / "rows.csv").open(encoding="utf-8", newline="") as stream:
        cells = list(csv.DictReader(stream))
    columns = ["source", "row", "reason", "message", "item_id", "image_path"]
    expected = [[row[name] for name in columns] for row in listed]
    assert [[json.loads(line)[name] for name in columns] for line in lines] == expected
    assert [[row[name] for name in columns] for row in stored] == expected
    assert [int(row["row"]) for row in cells] == [row["row"] for row in listed]
    assert stored[0]["first_seen"].isoformat() == cells[0]["first_seen"] == json.loads(lines[0])["first_seen"]


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", "  =1", "＝1"])
def test_no_cell_is_a_formula(ingested: tuple[str, ...], tmp_path: Path, text: str) -> None:
    table = RejectedRows(*current(ingested)).table()
    for name in ("message", "item_id", "image_path", "source"):
        place = table.column_names.index(name)
        table = table.set_column(place, name, [[text] * len(table)])
    export(table, tmp_path / "rows.csv")
    with (tmp_path / "rows.csv").open(encoding="utf-8", newline="") as stream:
        for row in csv.DictReader(stream):
            assert {row[name] for name in ("message", "item_id", "image_path", "source")} == {f"'{text}"}
            assert row["row"].isdigit()


def test_an_export_names_a_format_and_leaves_what_is_no_file_alone(ingested: tuple[str, ...], tmp_path: Path) -> None:
    result = invoke("quarantine", "--export", str(tmp_path / "rows.xlsx"), *ingested)
    assert result.exit_code == 2
    assert "name a file that ends in .csv, .json, .jsonl or .parquet" in result.stderr
    (tmp_path / "folder.csv").mkdir()
    assert "is there and no file" in invoke("quarantine", "--export", str(tmp_path / "folder.csv"), *ingested).stderr


def test_before_the_first_night_there_is_nothing_to_show(collection: Path) -> None:
    found = document("quarantine", "--file", str(collection), "--retry")
    assert (found["items"], found["rejected"], found["rows"], found["last_seen"], found["retried"]) == (
        0,
        0,
        [],
        None,
        0,
    )


def test_retry_forgets_quarantined_images_and_nothing_else(ingested: tuple[str, ...]) -> None:
    remembered = folder_of(ingested) / "known" / "rows.parquet"
    before = pq.read_table(remembered).to_pylist()
    rejected = [row for row in before if row["image"] and not row["is_picture"]]
    assert [row["reason"] for row in rejected] == ["image-unreadable"]
    assert document("quarantine", "--retry", "--reason", "image-timeout", *ingested)["retried"] == 0
    assert pq.read_table(remembered).to_pylist() == before
    assert document("quarantine", "--retry", *ingested)["retried"] == 1
    after = pq.read_table(remembered).to_pylist()
    assert [row for row in before if row not in after] == rejected
    assert len(after) == len(before)
    assert forget_rejections(folder_of(ingested)) == 0
    assert document("ingest", *ingested)["rows_seen"]["quarantined"] == 4
    remembered.write_bytes(b"no Parquet file")
    assert forget_rejections(folder_of(ingested)) == 0
    assert "takes no --source" in invoke("quarantine", "--retry", "--source", "a", *ingested).stderr


def test_status_counts_duplicates_apart_from_rejections(ingested: tuple[str, ...]) -> None:
    (state,) = document("status", *ingested)
    assert (state["items"], state["duplicates"], state["filtered"], state["quarantined"]) == (60, 1, 1, 4)
    assert state["reasons"] == COUNTED


def counts(**rows: int) -> list[ReasonCount]:
    codes = {name: Reason(name.replace("_", "-")) for name in rows}
    return [
        ReasonCount(reason=codes[name], outcome=codes[name].outcome, rows=count, example="a row 1: b", remedy="C.")
        for name, count in rows.items()
    ]


def test_only_what_is_quarantined_makes_too_many() -> None:
    assert too_many(counts(malformed_row=5, where=3, same_item=2), 10, 0.5) == ""
    assert too_many(counts(same_item=9, image_too_small=9), 18, 0.0) == ""
    assert too_many(counts(malformed_row=1), 10, 0.0) != ""
    assert too_many([], 0, 0.0) == ""
    said = too_many(counts(malformed_row=5, id_missing=1, where=4), 10, 0.5)
    assert said.startswith("6 of 10 rows quarantined: malformed-row 5, id-missing 1; e.g. a row 1: b. C. ")
    assert "ingest.max_rejected" in said


def test_an_explanation_names_three_reasons_and_no_duplicates() -> None:
    many = counts(malformed_row=5, id_missing=2, text_empty=2, image_missing=1, same_item=7)
    assert (
        explained(many, 0) == "10 rows quarantined: malformed-row 5, id-missing 2, text-empty 2, …; e.g. a row 1: b. C."
    )
    assert explained(counts(where=2), 4) == "2 of 4 rows filtered: where 2; e.g. a row 1: b. C."
    assert explained(counts(same_item=7), 7) == ""


def test_a_night_of_bad_rows_is_held_and_what_is_served_stays(collection: Path) -> None:
    options = ("--file", str(collection))
    assert document("run", *options)["outcome"] == "released"
    folder = collection.parent / "shapes"
    (folder / "elsewhere").mkdir()
    for picture in folder.glob("*.png"):
        picture.rename(folder / "elsewhere" / picture.name)
    held = invoke("run", *options, "--json")
    assert held.exit_code == 3
    night = json.loads(held.stdout)
    assert (night["outcome"], night["release"], night["rows"]["served"]) == ("held", 1, 60)
    assert (night["rows"]["seen"], night["rows"]["quarantined"]) == (66, 65)
    assert "65 of 66 rows quarantined: image-not-found 65; e.g. shapes/captions row 1: " in night["reason"]
    assert f"Images of these names are in {folder / 'elsewhere'}: set `base` to it." in night["reason"]
    assert set(night["seconds"]) == {"ingest", "decide", "collect"}
    shown = invoke("run", *options).stdout
    assert "65 image-not-found" in shown
    assert document("search", "a large red circle", "-k", "1", *options)["hits"]
    assert invoke("ingest", *options).exit_code == 3
    mended = invoke("run", "--set", f"sources.0.base={folder / 'elsewhere'}", *options, "--json")
    assert (mended.exit_code, json.loads(mended.stdout)["rows"]["served"]) == (0, 60)


def test_a_first_night_of_bad_rows_is_held_and_so_is_a_lower_limit(collection: Path) -> None:
    options = ("--file", str(collection), "--json")
    unreadable = invoke("run", "--set", "sources.0.base=.", *options)
    assert unreadable.exit_code == 3
    night = json.loads(unreadable.stdout)
    assert (night["outcome"], night["release"], night["rows"]["served"]) == ("held", None, 0)
    few = invoke("run", "--set", "ingest.max_rejected=0.05", *options)
    assert few.exit_code == 3
    assert "4 of 66 rows quarantined: image-not-found 2" in json.loads(few.stdout)["reason"]


def test_a_night_that_fails_for_want_of_items_counts_its_rows_and_names_why(collection: Path) -> None:
    options = ("--file", str(collection), "--json")
    (collection.parent / "shapes" / "captions.jsonl").write_text(
        '{"id": "1", "image": "small-red-circle.png", "text": "one", "group": "a", "colour": "red", "size": 1}\n{\n'
    )
    failed = invoke("run", *options)
    assert failed.exit_code == 2
    night = json.loads(failed.stdout)
    assert (night["outcome"], night["rows"]["seen"], night["rows"]["quarantined"]) == ("failed", 2, 1)
    assert "too few items for training (1 of at least 2): 1 row quarantined: malformed-row 1" in night["reason"]
    where = invoke("run", "--set", "sources.0.where=1 = 0", "--root", str(collection.parent / "another"), *options)
    assert where.exit_code == 1
    reason = json.loads(where.stdout)["reason"]
    assert "of 2 rows none became one: 1 filtered by `where`; 1 of 2 rows quarantined: malformed-row 1" in reason


def test_a_report_can_be_made_of_a_reason_that_another_version_knew(ingested: tuple[str, ...]) -> None:
    corpus, snapshot = current(ingested)
    (part,) = snapshot.quarantine
    path = corpus.folder / "quarantine" / f"part-{part.digest}.parquet"
    table = pq.read_table(path)
    old = table.set_column(table.column_names.index("reason"), "reason", [["of-old"] * len(table)])
    pq.write_table(old, path)
    found = RejectedRows(corpus, snapshot)
    assert [(each.reason, each.rows, each.remedy) for each in found.counts()] == [("of-old", 6, "")]


def test_images_are_looked_for_near_their_base_only(tmp_path: Path) -> None:
    base = tmp_path / "data" / "captions"
    (base / "inside").mkdir(parents=True)
    (tmp_path / "data" / "pictures").mkdir()
    names = [f"{number}.png" for number in range(4)]
    assert likely_base(base, names) is None
    for name in names[:3]:
        (tmp_path / "data" / "pictures" / name).touch()
    assert likely_base(base, names) == tmp_path / "data" / "pictures"
    assert likely_base(base, [f"pictures/{name}" for name in names]) == tmp_path / "data"
    for name in names:
        (base / "inside" / name).touch()
    assert likely_base(base, names) == base / "inside"
    strange = ["../pictures/0.png", str(tmp_path / "data" / "pictures" / "0.png"), "", "a\0b"]
    assert likely_base(base, strange) is None
    assert likely_base(tmp_path / "absent" / "too", names) is None
