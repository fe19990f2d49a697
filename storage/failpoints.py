"""Where a run may be killed or fail in tests: before and after each step that makes something visible.

Python's own audit events are the seam: nothing here can be armed, and an event that nobody listens to costs some fifty
nanoseconds. `benchmarks/tiny_nights.py` listens. `models`, which knows nothing of `storage`, raises the same event
itself.
"""

import sys
from pathlib import Path

EVENT = "pairloom.failpoint"


def hit(point: str, path: Path) -> None:
    """Say that `point` of the step at `path` is reached: `rename.before`, say. Raises what a listener raises."""
    sys.audit(EVENT, point, path)
