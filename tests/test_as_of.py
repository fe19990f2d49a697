"""Past days: whose files a night reads, in which order, and that none of them lies ahead."""

import json
from collections.abc import Iterator
from contextlib import nullcontext
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
from typer.testing import CliRunner

from benchmarks.tiny_nights import NAMES, Nights, decoded_here
from pairloom.flows.cli import app
from pairloom.models.evaluation.slices import SHOWN, overall, slices
from pairloom.search.rehearsal import rehearse
from pairloom.storage.corpus import Corpus
from pairloom.storage.sources.config import JsonlSource
from pairloom.storage.sources.dated import on_day

DAY = date(2026, 11, 3)


@pytest.mark.parametrize(
    ("path", "named"),
    [
        ("{date}.jsonl", "2026-11-03.jsonl"),
        ("{date:%Y/%m/%d}/*.jsonl", "2026/11/03/*.jsonl"),
        ("{date-1}.jsonl", "2026-11-02.jsonl"),
        ("{date:%Y}/week-{date:%V}.csv", "2026/week-45.csv"),
        ("plain.jsonl", "plain.jsonl"),
        ("{other}.jsonl", "{other}.jsonl"),
    ],
)
def test_a_date_in_a_path_is_the_day_of_the_night(path: str, named: str, tmp_path: Path) -> None:
    assert on_day(tmp_path / path, DAY) == [tmp_path / named]


@pytest.mark.parametrize("path", ["{until}.jsonl", "{until:%Y-%m-%d}.jsonl"])
def test_until_names_every_day_up_to_the_night_and_none_after_it(path: str, tmp_path: Path) -> None:
    for name in ("2026-11-04", "2026-10-31", "2026-11-03", "2026-13-77", "notes", "2026-11-03-draft"):
        (tmp_path / f"{name}.jsonl").touch()
    assert [each.stem for each in on_day(tmp_path / path, DAY)] == ["2026-10-31", "2026-11-03"]
    assert [each.stem for each in on_day(tmp_path / path.replace("until", "until-1"), DAY)] == ["2026-10-31"]
    assert on_day(tmp_path / path, date(2020, 1, 1)) == [tmp_path / path]


def test_what_exists_under_the_very_name_has_no_date(tmp_path: Path) -> None:
    (tmp_path / "{date}.jsonl").touch()
    assert on_day(tmp_path / "{date}.jsonl", DAY) == [tmp_path / "{date}.jsonl"]


@pytest.mark.parametrize("path", ["{date:%H}.jsonl", "{date:today}.jsonl", "{until}/{date}.jsonl", "[ab]{until}.csv"])
def test_a_date_that_means_nothing_is_refused_when_the_file_is_read(path: str) -> None:
    with pytest.raises(ValueError, match="date"):
        JsonlSource(path=Path(path))


@pytest.fixture
def nights(tmp_path: Path) -> Iterator[Nights]:
    """Three days of exports, each of all rows of its day, and one of a day to come."""
    nights = Nights(tmp_path)
    with patch("pairloom.tasks.ingest.decoding", lambda _pipeline: nullcontext(decoded_here)):
        yield nights


def write_days(nights: Nights, path: str, **changes: Any) -> Path:
    """Exports of four rows a day, two of them those of the day before; returns a file of pipelines over them."""
    today = datetime.now(UTC).date()
    for number, day in enumerate((*(DAY + timedelta(days=n) for n in (-2, -1, 0)), today + timedelta(days=2))):
        nights.rows = {}
        for place in range(2 * number, 2 * number + 4):
            nights.put(str(place), name=NAMES[place])
        nights.write()
        (nights.folder / "captions.jsonl").rename(nights.folder / f"{day}.jsonl")
    # Pictures lie beside the captions, wherever those are.
    nights.changes = {"sources": [{"kind": "jsonl", "path": str(nights.folder / path), **changes}]}
    return nights.file


def ingest(file: Path, *options: str) -> Any:
    result = CliRunner().invoke(app, ["ingest", "--file", str(file), "--json", *options])
    return json.loads(result.stdout) if result.exit_code == 0 else result.output


def items(nights: Nights) -> list[int]:
    corpus = Corpus(nights.stored)
    return sorted(map(int, corpus.table(corpus.current(), ["item_id"])["item_id"].to_pylist()))


def test_days_are_read_in_their_order_and_each_replaces_the_one_before(nights: Nights) -> None:
    file = write_days(nights, "{date}.jsonl")
    assert ingest(file, "--as-of", "2026-11-01")["rows_seen"]["new"] == 4
    assert items(nights) == [0, 1, 2, 3]
    # Rows of a day under a new name are those of the day before as far as they are equal.
    after = ingest(file, "--as-of", "2026-11-02..2026-11-03")
    assert items(nights) == [4, 5, 6, 7]
    assert after["number"] == 3
    # The day that it is has no export yet: what is there stays.
    ingest(file)
    assert items(nights) == [4, 5, 6, 7]


def test_days_add_up_where_rows_stay_and_where_all_days_so_far_are_read(nights: Nights) -> None:
    ingest(write_days(nights, "{date}.jsonl", mode="append"), "--as-of", "2026-11-01..2026-11-03")
    assert items(nights) == [*range(8)]
    file = write_days(nights, "{until}.jsonl", mode="mirror", name="all")
    assert ingest(file, "--as-of", "2026-11-02", "--accept-removals")["rows"] == 6
    assert ingest(file)["rows"] == 8  # today: nothing of the day to come


@pytest.mark.parametrize(
    ("path", "as_of", "said"),
    [
        ("{date}.jsonl", "2999-01-01", "lies ahead"),
        ("2026-11-01.jsonl", "2026-11-01", "no source has a date in its path"),
        ("{date}.jsonl", "yesterday", "say a day"),
        ("{date}.jsonl", "2026-11-03..2026-11-01", "the later day comes last"),
    ],
)
def test_a_day_that_can_not_be_is_refused(path: str, as_of: str, said: str, nights: Nights) -> None:
    result = CliRunner().invoke(app, ["ingest", "--file", str(write_days(nights, path)), "--as-of", as_of])
    assert (result.exit_code, said in result.output) == (2, True), result.output


def test_nights_of_past_days_say_so_and_their_releases_tell_their_lineage(nights: Nights) -> None:
    write_days(nights, "{until}.jsonl")
    nights.changes |= {"cost": {"per_hour": {"cpu": 3600}}, "retrain": {"min_new_fraction": 0.1}}
    file = nights.file
    with patch("pairloom.flows.rehearsal.in_fresh_process", rehearse):
        result = CliRunner().invoke(app, ["run", "--as-of", "2026-11-02..2026-11-03", "--file", str(file), "--json"])
    assert result.exit_code == 0, result.output
    first, second = json.loads(result.stdout)
    assert [(night["outcome"], night["as_of"]) for night in (first, second)] == [
        ("released", "2026-11-02"),
        ("released", "2026-11-03"),
    ]
    assert (first["rows"]["served"], second["rows"]["served"]) == (6, 8)
    assert not any("/" in name for night in (first, second) for name in night["metrics"])

    before, told = shown(file, "1")["lineage"], shown(file, "2")["lineage"]
    assert told["version"].startswith("0.")
    assert (told["before"], told["version_before"], told["changed"]) == (1, told["version"], {})
    assert (told["model_snapshot"], told["items"], told["parents"]) == (2, 8, [before["model"]])
    assert told["pairs"] != before["pairs"]
    assert told["config"]["sources.0.kind"] == "jsonl"
    assert told["config"]["retrain.min_new_fraction"] == 0.1
    assert {"ingest", "mine", "train", "evaluate", "embed", "index"} <= told["seconds"].keys()
    assert (told["cost"], told["currency"]) == (pytest.approx(told["seconds"], abs=1e-3), "EUR")
    assert "parents          " + before["model"] in CliRunner().invoke(app, ["show", "2", "--file", str(file)]).output

    nights.changes |= {"cost": {"per_hour": {"gpu": 1}}, "retention": {"releases": 3}}
    assert nights.run().outcome == "unchanged"
    nights.changes |= {"training": nights.blocks["training"] | {"seed": 1}}
    nights.run()
    told = shown(nights.file, "3")["lineage"]
    assert told["changed"]["training.seed"] == [None, 1]
    assert told["changed"]["cost.per_hour.cpu"] == [3600.0, None]
    assert told["changed"].keys() > {"retention.releases"}
    assert told["cost"] == {}


def shown(file: Path, number: str) -> Any:
    return json.loads(CliRunner().invoke(app, ["show", number, "--file", str(file), "--json"]).stdout)


def test_slices_are_nested_and_few() -> None:
    metrics = {"text_to_image_recall@10": 0.5, "image_to_text_recall@10/novel_text": 0.25}
    for number in range(500):
        metrics[f"text_to_image_recall@10/brand=b{number:03}"] = number / 500
        metrics[f"text_to_image_median_rank/brand=b{number:03}"] = 3.0
    assert overall(metrics) == {"text_to_image_recall@10": 0.5}
    found = slices(metrics)
    assert found["novel_text"]["values"] == 1
    assert (found["brand"]["values"], len(found["brand"]["lowest"])) == (500, SHOWN)
    assert found["brand"]["lowest"][1] == {
        "value": "b001",
        "metrics": {"text_to_image_recall@10": 0.002, "text_to_image_median_rank": 3.0},
    }
