"""A few of the faults that benchmarks/faults.py tries by the hundred, and others that a test can make."""

import sys
from contextlib import ExitStack
from datetime import datetime, timedelta, tzinfo
from pathlib import Path
from typing import Self
from unittest.mock import patch

import pytest
from typer.testing import CliRunner

from benchmarks.faults import fail, raise_at
from benchmarks.tiny_nights import Nights, content, failing, listening
from benchmarks.undisturbed import Undisturbed
from pairloom.flows.cli import app
from pairloom.storage.records import StaleWriterError
from pairloom.storage.releases import release_log


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Undisturbed:
    """Three nights as they ought to end."""
    return Undisturbed(Nights(tmp_path_factory.mktemp("nights")))


def test_a_night_that_fails_at_any_kind_of_step_serves_one_release_whole_and_ends_as_undisturbed_when_run_again(
    undisturbed: Undisturbed,
) -> None:
    # The last one of each kind, in the second night where it has one: that trains nothing. What is there before a step
    # is what was there after the last.
    last = {
        step.partition(".")[0]: (number, at)
        for number in (3, 2)
        for at, (step, _) in enumerate(undisturbed.points[number])
    }
    assert last.keys() >= {"write", "rename", "record", "checkpoint", "adopt", "upsert", "delete", "index", "tag"}
    for number, at in last.values():
        raise_at(undisturbed, number, at)


def test_a_killed_retraining_goes_on_though_items_have_gone_that_its_model_never_embedded(
    undisturbed: Undisturbed,
) -> None:
    embedded = [
        at for at, (step, name) in enumerate(undisturbed.points[3]) if step == "write.before" and "embeddings/" in name
    ]
    # Its last part but one is written; the item that the second night changed is in none of them.
    raise_at(undisturbed, 3, embedded[-1])


@pytest.mark.parametrize("step", ["record.before releases/", "upsert.before"])
def test_of_two_nights_at_once_the_second_to_publish_loses_and_says_so(
    undisturbed: Undisturbed, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    undisturbed.begin(2)
    monkeypatch.setattr(undisturbed.nights, "grace_hours", 24)
    at = next(place for place, point in enumerate(undisturbed.points[2]) if " ".join(point).startswith(step))
    with (
        pytest.raises(StaleWriterError, match=r"another run|changed since it was checked"),
        listening(failing(at, undisturbed.nights.run)),
    ):
        undisturbed.nights.run()
    undisturbed.check_content(2, "two of night 2 at once")


def test_a_full_disk_ends_the_command_with_one_line_that_names_folder_and_stage(undisturbed: Undisturbed) -> None:
    undisturbed.begin(2)

    def full(step: str, _: Path) -> None:
        if step == "upsert.before":
            fail()

    with listening(full):
        result = CliRunner().invoke(app, ["run", "--file", str(undisturbed.nights.file)])
    assert result.exit_code == 1
    said = f"error: no room left on the disk of {undisturbed.nights.stored}, in index: make some, then run again"
    assert said in " ".join(result.stderr.split())
    undisturbed.check_served(2)
    undisturbed.check_rerun(2)


def test_a_damaged_newest_record_is_passed_over_and_its_number_stays_taken(undisturbed: Undisturbed) -> None:
    undisturbed.begin(3)
    record = release_log(undisturbed.nights.stored).path(2)
    record.write_bytes(record.read_bytes()[:-9])
    served = content(undisturbed.nights.stored).release
    assert served == undisturbed.after[1].release
    undisturbed.nights.prepare(2)
    night = undisturbed.nights.run()
    assert (night.outcome, night.release) == ("released", 3)
    after = content(undisturbed.nights.stored)
    assert after.served == undisturbed.after[2].served
    assert "vectors" not in after.differences(undisturbed.after[2])


class Yesterday(datetime):
    """A clock that was set back by a day."""

    @classmethod
    def now(cls, tz: tzinfo | None = None) -> Self:
        return super().now(tz) - timedelta(days=1)


def test_a_clock_set_back_by_a_day_changes_nothing_but_dates(undisturbed: Undisturbed) -> None:
    ours = [module for name, module in list(sys.modules.items()) if name.startswith("pairloom.")]
    clocks = [module for module in ours if getattr(module, "datetime", None) is datetime]
    assert {"pairloom.tasks.publish", "pairloom.tasks.decide"} <= {module.__name__ for module in clocks}
    undisturbed.begin(2)
    with ExitStack() as stack:
        for module in clocks:
            stack.enter_context(patch.object(module, "datetime", Yesterday))
        # What was stored lies in the future now.
        undisturbed.check_rerun(2)
        newest, older = list(release_log(undisturbed.nights.stored).newest_first())
        assert newest.created_at < older.created_at
        undisturbed.nights.prepare(3)
        undisturbed.check_rerun(3)
