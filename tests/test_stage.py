"""What a stage says of itself, in the log and to a listener."""

import contextvars
import errno
import logging
import re
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from pairloom.flows.show import progress
from pairloom.storage.files import DiskFullError
from pairloom.tasks.refs import EmbeddingsRef, Plan, SnapshotRef, Verdict
from pairloom.tasks.stage import listen, report_progress, stage

REF = EmbeddingsRef(model_id="m", snapshot=1, dimension=2, embedded=2_936)


@stage()
def embed(pipeline: str) -> EmbeddingsRef:
    """A stage that gets halfway before it is done."""
    report_progress("embed", 1, 2, pipeline)
    return REF


def test_the_last_line_of_a_stage_says_that_it_ended_and_what_it_did(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "pairloom.tasks"):
        assert embed("shapes") == REF
    assert re.fullmatch(r"embed: done · 2,936 items in [\d.]+ s", caplog.messages[-1])


def test_a_listener_hears_the_begin_the_middle_and_what_was_done(caplog: pytest.LogCaptureFixture) -> None:
    heard: list[tuple[Any, ...]] = []

    def run() -> None:
        listen(lambda *said: heard.append(said))
        embed("shapes")

    with caplog.at_level(logging.INFO, "pairloom.tasks"):
        contextvars.copy_context().run(run)
    assert heard[:2] == [("embed", 0, None, ""), ("embed", 1, 2, "shapes")]
    assert heard[2][:3] == ("embed", 1, 1)
    assert heard[2][3].startswith("done · 2,936 items in ")
    assert not caplog.messages


def test_bars_hear_nothing_any_more_once_they_are_gone(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    screen = StringIO()
    monkeypatch.setattr(progress, "err", Console(file=screen, force_terminal=True))
    with caplog.at_level(logging.INFO, "pairloom.tasks"):
        with progress.stage_bars(quiet=False):
            embed("shapes")
        assert "embed" in screen.getvalue()
        assert not caplog.messages
        shown = screen.getvalue()
        embed("shapes")
    assert caplog.messages[-1].startswith("embed: done")
    assert screen.getvalue() == shown


def test_refs_say_in_words_what_was_done() -> None:
    assert SnapshotRef(number=1, digest="d", rows=7, rows_seen={"seen": 9, "new": 2, "removed": 1}).summary == (
        "2 new, 0 updated, 1 removed, of 9 rows; 7 items"
    )
    plan = Plan(
        action="nothing",
        reason="nothing new",
        run_id="r",
        training_digest="t",
        snapshot=1,
        champion=1,
        champion_model="m",
        champion_rows=7,
        champion_metrics={},
        brings_rows=False,
    )
    assert plan.summary == "nothing new"
    assert plan.model_copy(update={"action": "retrain", "reason": "first release"}).summary == "retrain, first release"
    verdict = Verdict(passed=False, model_id="m", metrics={}, champion_metrics={}, reasons=("a", "b"), comparisons=())
    assert verdict.summary == "held, a; b"
    assert verdict.model_copy(update={"passed": True}).summary == "passed"


class Collection:
    folder = Path("/collections/shop")


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "Error writing bytes to file"),
        OSError("LanceError(IO): failed to write: No space left on device (os error 28)"),
        RuntimeError("write failed: Disk quota exceeded"),
    ],
)
def test_a_full_disk_is_told_with_its_folder_and_stage(error: Exception) -> None:
    @stage()
    def index(_: Collection) -> EmbeddingsRef:
        raise error

    with pytest.raises(DiskFullError, match=r"^no room left on the disk of /collections/shop, in index: make some"):
        index(Collection())


def test_the_folder_that_is_full_may_be_another_one_and_other_errors_stay() -> None:
    @stage()
    def mine(_: Collection, error: Exception) -> EmbeddingsRef:
        raise error

    with pytest.raises(DiskFullError, match="of /tmp, in mine"):
        mine(Collection(), OSError(errno.ENOSPC, "No space left on device", "/tmp/scratch"))
    with pytest.raises(PermissionError):
        mine(Collection(), PermissionError(errno.EACCES, "Permission denied", "/tmp/scratch"))
