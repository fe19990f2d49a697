"""A few of the histories that benchmarks/promises.py plays by the hundred."""

from benchmarks.promises import play


def test_no_history_breaks_a_promise() -> None:
    assert play(4, 8, derandomize=True) > 0
