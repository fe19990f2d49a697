import importlib.util
import io
import json
import sys
import threading
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from benchmarks.gpu import resume
from benchmarks.gpu.__main__ import BUDGETS, run_apart
from benchmarks.gpu.equality import compared, results
from benchmarks.gpu.measures import SIZES, Part

TINY = SIZES["tiny"]


def part(name: str, lines: list[str], seconds: float = 300) -> Part:
    return Part(name, TINY, time.monotonic() + seconds, lines.append)


@pytest.mark.parametrize(("name", "count"), [("steps", 6), ("large_batch", 3), ("embedding", 2), ("mining", 2)])
def test_a_part_measures_all_that_it_names(name: str, count: int) -> None:
    lines: list[str] = []
    importlib.import_module(f"benchmarks.gpu.{name}").run(part(name, lines))
    told = [json.loads(line) for line in lines]
    assert [line for line in told if "error" in line or "skipped" in line] == []
    assert len(told) == count
    assert all(line.get("samples_per_second", line.get("images_per_second", line.get("seconds"))) > 0 for line in told)
    if name == "mining":
        assert told[0]["recall"] > 0.999
        assert told[0]["queries"] == TINY.vectors


def test_a_killed_training_is_resumed_to_the_same_weights() -> None:
    lines: list[str] = []
    resume.run(part("resume", lines))
    (told,) = [json.loads(line) for line in lines]
    assert (told["killed"], told["largest_difference"]) == (True, 0)
    assert 0 < told["resumed_from"] < TINY.resumed_steps


def test_two_runs_on_one_device_are_equal() -> None:
    found = compared(results("tiny"), results("tiny"))
    assert len(found) == 6
    assert all(facts["equal"] == 1 for facts in found.values())


def test_what_goes_wrong_in_one_measure_is_told_and_the_next_goes_on() -> None:
    lines: list[str] = []
    own = part("any", lines)
    own.measure("too large", lambda: {"never": 1 / 0}, batch=3)
    own.measure("fine", lambda: {"value": 1})
    part("any", lines, -1).measure("late", lambda: {"value": 1})
    told = [json.loads(line) for line in lines]
    assert told[0] == {"part": "any", "what": "too large", "batch": 3, "error": "ZeroDivisionError: division by zero"}
    assert told[1]["value"] == 1
    assert told[2]["skipped"] == "no time left"


class FirstLine(io.StringIO):
    """A standard output that is a timer, too: time is up once a line was said, however slow the machine."""

    def __init__(self) -> None:
        super().__init__()
        self.end: Callable[[], None] = lambda: None

    def timer(self, _seconds: float, end: Callable[[], None]) -> Any:
        """As `threading.Timer`."""
        self.end = end
        return SimpleNamespace(start=lambda: None, cancel=lambda: None)

    def write(self, line: str) -> int:
        self.end()
        return super().write(line)


def test_a_part_is_killed_with_all_that_it_started_once_its_time_is_up(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Its child holds the pipe open, as a compiler's do.
    waits = "import time; time.sleep(1e6)"
    started = f"import subprocess, sys; subprocess.Popen([sys.executable, '-c', {waits!r}]); print('', flush=True)"
    code = f"{started}; {waits}"
    with monkeypatch.context() as clock:
        said = FirstLine()
        clock.setattr(sys, "stdout", said)
        clock.setattr(threading, "Timer", said.timer)
        assert run_apart("slow", [sys.executable, "-c", code], 2) == "slow: killed after 2 s, 1 lines"
    assert said.getvalue() == "\n"
    assert run_apart("broken", [sys.executable, "-c", "1 / 0"], 60) == "broken: ended with 1, 0 lines"
    fine = "print('{\"error\": 1}'); print('{}')"
    assert run_apart("partly", [sys.executable, "-c", fine], 60) == "partly: 1 of 2 lines tell of an error"
    assert capsys.readouterr().out.count("\n") == 2


def test_all_parts_together_take_nine_minutes_at_most() -> None:
    assert sum(BUDGETS.values()) + 5 * len(BUDGETS) <= 530
    assert all(importlib.util.find_spec(f"benchmarks.gpu.{name}") for name in BUDGETS)
