"""A few of the histories that benchmarks/histories.py plays by the hundred."""

from benchmarks.histories import play


def test_after_any_history_a_night_leaves_what_a_first_night_would() -> None:
    assert play(8, 10, derandomize=True) > 20
