"""A challenger that waits for a person: approved, refused, replaced, too late; nights and readers meanwhile."""

import json
import shutil
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from nights import current, folder, night
from typer.testing import CliRunner

from pairloom.flows import stages
from pairloom.flows.approval import approve_waiting
from pairloom.flows.cli import app
from pairloom.flows.config import load_pipeline
from pairloom.flows.outcome import Night
from pairloom.search.release import OpenRelease
from pairloom.storage.approvals import Approval, approval_log, refuse, require_waiting, waiting, waiting_models
from pairloom.storage.files import DamagedError
from pairloom.storage.releases import release_log, roll_back
from pairloom.tasks.embed import embed
from pairloom.tasks.index import index

WritePipelines = Callable[..., Path]

TRAINING = {"max_minutes": None, "max_steps": 1, "batch_size": 16, "threads": 1}
GATE = {"approval": "person", "max_regression": 1, "first": "none"}
"""Everything passes, and then waits."""
ANEW = "training.max_steps=2"
"""Another training than the one before."""


@pytest.fixture(scope="module")
def trained(shapes: Path, write_pipelines: WritePipelines, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder whose pipeline has no release yet, and a first challenger that waits. Shared: tests copy it."""
    folder = tmp_path_factory.mktemp("trained")
    shutil.copytree(shapes, folder / "shapes")
    pipeline = load_pipeline(write_pipelines(folder, Path("shapes"), training=TRAINING, gate=GATE))
    for stage in (stages.ingest, stages.mine, stages.train, stages.evaluate):
        stage(pipeline)
    return folder


@pytest.fixture(scope="module")
def asked(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Night]:
    """A folder whose release 2 serves 58 items by the model of release 1, and tonight's challenger waits. Shared."""
    folder = tmp_path_factory.mktemp("asked") / "copy"
    file = shutil.copytree(trained, folder) / "pipelines.yaml"
    approve_waiting(load_pipeline(file), by="Ada")
    captions = folder / "shapes" / "captions.jsonl"
    captions.write_text("".join(captions.read_text().splitlines(keepends=True)[:-2]))
    return folder, night(file, ANEW)


@pytest.fixture
def first(trained: Path, tmp_path: Path) -> Path:
    """pipelines.yaml of a pipeline whose first challenger waits."""
    return shutil.copytree(trained, tmp_path / "copy") / "pipelines.yaml"


@pytest.fixture
def file(asked: tuple[Path, Night], tmp_path: Path) -> Path:
    """pipelines.yaml of a pipeline whose challenger waits while release 2 serves."""
    return shutil.copytree(asked[0], tmp_path / "copy") / "pipelines.yaml"


def say(file: Path, *arguments: str) -> tuple[int, Any]:
    """A command's exit status, and what it answers: the document, or the error."""
    done = CliRunner().invoke(app, [*arguments, "--file", str(file), "--json"])
    return done.exit_code, json.loads(done.stdout) if done.stdout else done.stderr


def rewritten(file: Path, **changes: Any) -> Approval:
    """What waits, with other facts."""
    approval = require_waiting(folder(file))
    changed = approval.model_copy(update={"number": approval.number + 1, **changes})
    approval_log(folder(file)).publish(changed)
    return changed


def test_a_challenger_that_passed_waits_while_the_champion_serves_the_new_rows(
    asked: tuple[Path, Night], file: Path
) -> None:
    held, challenger = asked[1], require_waiting(folder(file))
    assert (held.outcome, held.release, held.rows["served"], held.trained) == ("held", 2, 58, challenger.model_id)
    assert held.model_id == current(file).model_id != challenger.model_id
    assert {release.model_id for release in release_log(folder(file)).written()} == {held.model_id}
    assert waiting_models(folder(file)) == {challenger.model_id}
    for told in ("`pairloom approve -p shapes`", "`pairloom refuse -p shapes`", "text_to_image_recall@10 "):
        assert told in held.reason
    assert held.metrics == challenger.metrics
    assert current(file).training.verdict == "held"

    again = night(file, ANEW)
    assert (again.outcome, again.release) == ("held", 2)
    assert again.reason == f"nothing new; {held.reason}"
    assert "train" not in again.seconds

    captions = file.parent / "shapes" / "captions.jsonl"
    captions.write_text(captions.read_text().replace("a large red circle", "a big red circle"))
    released = night(file, ANEW)
    assert (released.outcome, released.release, released.model_id) == ("released", 3, held.model_id)
    assert released.reason == f"new rows, too few to retrain; {held.reason}"
    assert current(file).reason == "new rows, too few to retrain"


def test_status_and_releases_show_what_waits(file: Path) -> None:
    challenger = require_waiting(folder(file))
    status, (state,) = say(file, "status")
    assert status == 0
    assert state["waiting"] == challenger.model_dump(mode="json", include={"model_id", "since", "until", "figures"})
    _, rows = say(file, "releases")
    assert [row["release"] for row in rows] == [None, 2, 1]
    assert rows[0]["model_id"] == challenger.model_id
    assert challenger.figures in rows[0]["reason"]


def test_an_approved_challenger_is_released_as_if_its_night_had_released_it(file: Path) -> None:
    challenger = require_waiting(folder(file))
    # As a run leaves it that is killed before it publishes.
    pipeline = load_pipeline(file)
    index(pipeline, embed(pipeline, current(file).snapshot, challenger.model_id))
    status, told = say(file, "approve", "--by", "Grace", "--reason", "it finds more")
    assert (status, told["outcome"], told["release"]) == (0, "released", 3)
    release = current(file)
    assert (release.model_id, release.rows, release.metrics) == (challenger.model_id, 58, challenger.metrics)
    assert release.training == challenger.training
    assert release.training.items == 58
    assert release.reason == f"{challenger.trained_because}; approved by Grace: it finds more"
    assert OpenRelease.open(folder(file)).search("a red circle", k=3).hits

    again = night(file, ANEW)
    assert (again.outcome, again.reason) == ("unchanged", "nothing new")
    status, error = say(file, "approve")
    assert status == 2
    assert f"nothing waits for approval in pipeline 'shapes': model {release.model_id} is release 3" in error


def test_a_refused_challenger_is_held_and_not_trained_again(file: Path) -> None:
    challenger = require_waiting(folder(file))
    status, told = say(file, "refuse", "--by", "Grace", "--reason", "the shoes are gone")
    refused = f"model {challenger.model_id} was refused by Grace: the shoes are gone"
    assert (status, told["outcome"], told["release"], told["reason"]) == (0, "held", 2, refused)
    assert waiting_models(folder(file)) == set()
    again = night(file, ANEW)
    assert (again.outcome, again.reason) == ("unchanged", f"nothing new; {refused}")
    assert "train" not in again.seconds
    assert [say(file, command)[0] for command in ("approve", "refuse")] == [2, 2]


def test_a_later_challenger_takes_the_place_of_the_one_that_waits(file: Path) -> None:
    before = require_waiting(folder(file)).model_id
    held = night(file, "training.max_steps=3")
    after = require_waiting(folder(file))
    assert (held.outcome, held.trained, after.model_id == before) == ("held", after.model_id, False)
    assert waiting_models(folder(file)) == {after.model_id}
    # Without anybody's word: what waits was measured beside a model that serves no more.
    released = night(file, "training.max_steps=4", "gate.approval=none")
    assert (released.outcome, released.release) == ("released", 3)
    status, error = say(file, "approve")
    assert status == 2
    assert f"release 3 came after model {after.model_id}" in error


def test_a_first_release_waits_too_and_readers_say_so(first: Path) -> None:
    challenger = require_waiting(folder(first))
    with pytest.raises(
        ValueError, match=f"release 1 of pipeline 'shapes' waits for approval: model {challenger.model_id}"
    ):
        OpenRelease.open(folder(first))
    with pytest.raises(ValueError, match=f"its first challenger is held: model {challenger.model_id} passed the gate"):
        stages.publish(load_pipeline(first))
    assert say(first, "status")[1][0]["release"] is None
    again = night(first)
    assert (again.outcome, again.release, again.reason) == (
        "held",
        None,
        f"nothing is served yet; {challenger.waits('shapes')}",
    )
    say(first, "refuse", "--by", "Grace")
    again = night(first)
    assert (again.outcome, again.release) == ("held", None)
    assert again.reason == f"nothing is served yet; model {challenger.model_id} was refused by Grace"
    assert "train" not in again.seconds
    with pytest.raises(ValueError, match="has no release yet"):
        OpenRelease.open(folder(first))


def test_what_waits_or_was_refused_counts_as_the_last_training(first: Path) -> None:
    training = require_waiting(folder(first)).training
    long_ago = training.model_copy(update={"trained_at": datetime(2020, 1, 1, tzinfo=UTC)})
    # Long due; but the same items, configuration and champion would only give the same challenger again.
    rewritten(first, training=long_ago)
    assert "train" not in night(first).seconds
    rewritten(first, training=training)
    captions = first.parent / "shapes" / "captions.jsonl"
    captions.write_text(captions.read_text().replace("a large red circle", "a big red circle"))
    assert "train" not in night(first).seconds, "one of sixty items is too few"
    refuse(folder(first), rewritten(first, training=long_ago), by="Grace", reason="")
    assert "train" in night(first).seconds
    assert require_waiting(folder(first)).trained_because == "the last training was on 2020-01-01"


def test_a_challenger_is_measured_again_beside_another_champion(file: Path) -> None:
    pipeline = load_pipeline(file)
    rewritten(file, champion_model="another", metrics={}, comparisons=())
    released = approve_waiting(pipeline, by="Grace")
    assert (released.outcome, released.release) == ("released", 3)
    assert current(file).metrics == released.metrics
    assert "text_to_image_recall@10" in released.metrics
    assert all("against the champion" in comparison for comparison in released.comparisons)


def test_what_the_gate_holds_beside_another_champion_is_not_released(file: Path) -> None:
    rewritten(file, champion_model="another")
    status, told = say(file, "approve", "--set", "gate.min={text_to_image_recall@1: 1.01}")
    assert (status, told["outcome"], told["release"]) == (3, "held", 2)
    assert "below its floor" in told["reason"]
    status, error = say(file, "refuse")
    assert status == 2
    assert "was refused by the gate: text_to_image_recall@1" in error


def test_a_rollback_that_stands_is_not_undone_by_an_approval(file: Path) -> None:
    roll_back(folder(file), 1)
    with pytest.raises(ValueError, match=r"release 2 was rolled back to release 1.*until then model"):
        approve_waiting(load_pipeline(file, overrides=[ANEW]), by="Grace")
    roll_back(folder(file), 2)
    assert approve_waiting(load_pipeline(file, overrides=[ANEW]), by="Grace").release == 5


def test_what_nobody_approves_in_time_is_held_for_good(file: Path) -> None:
    late = rewritten(file, until=require_waiting(folder(file)).since)
    assert waiting_models(folder(file)) == set()
    again = night(file, ANEW)
    assert again.outcome == "unchanged"
    assert again.reason.startswith(f"nothing new; nobody approved model {late.model_id} before ")
    with pytest.raises(ValueError, match="nobody approved model"):
        approve_waiting(load_pipeline(file), by="Grace")


def test_a_damaged_model_is_not_released_and_a_damaged_record_is_not_believed(file: Path) -> None:
    challenger = require_waiting(folder(file))
    weights = folder(file) / "models" / challenger.model_id / "open_clip_model.safetensors"
    content = weights.read_bytes()
    weights.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(DamagedError, match=r"waits for approval can't be released: .*put it back, or `pairloom refuse"):
        approve_waiting(load_pipeline(file), by="Grace")
    assert require_waiting(folder(file)) == challenger
    record = approval_log(folder(file)).path(challenger.number)
    record.write_text(record.read_text().replace(challenger.model_id, "0" * 16, 1))
    assert waiting(folder(file)) is None
    assert night(file, ANEW).reason == "nothing new"
