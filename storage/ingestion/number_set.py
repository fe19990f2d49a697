"""A set of numbers that takes eight bytes for each, where Python's takes nearly eighty."""

# N = numbers, Q = numbers asked for

import numpy as np


class NumberSet:
    """Numbers of 64 bits, given and asked for by the array."""

    def __init__(self) -> None:
        self._runs: list[np.ndarray] = []
        """Sorted; each at least twice as long as the next, so that each number is merged few times."""

    def add(self, numbers_N: np.ndarray) -> None:
        """Put some in; they may be there."""
        run_N = np.sort(numbers_N)
        while self._runs and len(self._runs[-1]) < 2 * len(run_N):
            run_N = np.sort(np.concatenate([self._runs.pop(), run_N]), kind="stable")
        if len(run_N):
            self._runs.append(run_N)

    def holds(self, numbers_Q: np.ndarray) -> np.ndarray:
        """Which of some are there, bool (Q,)."""
        found_Q = np.zeros(len(numbers_Q), bool)
        for run_N in self._runs:
            place_Q = np.minimum(np.searchsorted(run_N, numbers_Q), len(run_N) - 1)
            found_Q |= run_N[place_Q] == numbers_Q
        return found_Q
