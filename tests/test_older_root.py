"""A root that version 0.1.0 wrote opens and goes on; one of a later version is refused with what to do.

tests/root-0.1.0/ was made by commit ad82752, the last before what the changelog lists above 0.1.0: a night over the 16
pictures of benchmarks/tiny_nights.py, then one over two more and a broken one.
"""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from benchmarks.tiny_nights import NAMES, Nights
from pairloom.flows.cli import app
from pairloom.search.release import OpenRelease
from pairloom.storage.records import FORMAT, FormatError
from pairloom.storage.records import _digest as digest_of_record
from pairloom.storage.releases import release_log
from pairloom.storage.runs import Run
from pairloom.tasks.refs import ModelRef


@pytest.fixture(scope="module")
def nights(tmp_path_factory: pytest.TempPathFactory) -> Nights:
    """The root of 0.1.0 and the sources it was made from."""
    nights = Nights(tmp_path_factory.mktemp("older"))
    shutil.copytree(Path(__file__).with_name("root-0.1.0"), nights.stored)
    for place, name in enumerate(NAMES):
        nights.put(str(place), name=name)
    nights.put("new 0", name="red square", shade=1)
    nights.put("new 1", name="blue bar", shade=2, price=7)
    nights.write()
    return nights


def answer(nights: Nights, *command: str) -> Any:
    result = CliRunner().invoke(app, [*command, "--file", str(nights.file), "--json"])
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def test_a_root_of_version_0_1_0_is_searched_goes_on_and_is_rolled_back(nights: Nights) -> None:
    (state,) = answer(nights, "status")
    assert (state["release"], state["served"], state["up_to_date"], state["quarantined"]) == (2, 18, True, 1)
    assert [row["rows"] for row in answer(nights, "releases")] == [18, 16]
    before = [hit["item_id"] for hit in answer(nights, "search", "red square")["hits"]]
    assert len(before) == 10
    assert answer(nights, "sql", "SELECT count(*) AS n FROM items WHERE price = 7") == [{"n": 1}]
    assert [each["findings"] for each in answer(nights, "verify")] == [[]]

    nights.put("new 2", name="green frame", shade=3)
    nights.write()
    night = nights.run()
    assert (night.outcome, night.release, night.rows["served"]) == ("released", 3, 19)
    log = release_log(nights.stored)
    assert json.loads(log.path(3).read_bytes())["format"] == FORMAT
    assert "format" not in json.loads(log.path(2).read_bytes())

    answer(nights, "rollback", "2")
    assert [hit["item_id"] for hit in answer(nights, "search", "red square")["hits"]] == before
    assert [each["findings"] for each in answer(nights, "verify")] == [[]]


@pytest.mark.parametrize("later", [{"format": FORMAT + 1}, {"format": "three"}, {"from_the_future": 1}])
def test_a_root_of_a_later_version_is_refused_and_not_taken_for_damage(nights: Nights, later: dict[str, Any]) -> None:
    log = release_log(nights.stored)
    number = log.next_number()
    document = json.loads(log.path(2).read_bytes()) | {"number": number} | later
    del document["sha256"]
    log.path(number).write_text(json.dumps({**document, "sha256": digest_of_record(document)}))
    try:
        with pytest.raises(FormatError, match="Upgrade Pairloom"):
            OpenRelease.open(nights.stored)
        for command in ("search square", "verify --repair", "collect-garbage", "rollback 2", "run"):
            result = CliRunner().invoke(app, [*command.split(), "--file", str(nights.file)])
            assert result.exit_code == 1
            assert "a later one wrote it. Upgrade Pairloom" in result.output
    finally:
        log.path(number).unlink()


def test_what_another_version_left_in_a_run_is_made_anew(tmp_path: Path) -> None:
    run = Run(tmp_path, "killed")
    run.write("train", ModelRef(model_id="m", steps=1, samples=1, seconds=1.0, loss=1.0))
    assert run.read("train", ModelRef) is not None
    path = run.folder / "train.json"
    path.write_text(json.dumps({**json.loads(path.read_bytes()), "unheard": 1}))
    assert run.read("train", ModelRef) is None
