"""Processes that `multiprocessing` starts for us: interrupts are not theirs, and they end with their parent."""

import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import resource_tracker


@contextmanager
def unheard_by_children() -> Iterator[None]:
    """Processes that this thread starts inside get no interrupt, not even while they load. Another thread takes it."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        # Starting it unblocks SIGINT, whatever was before.
        resource_tracker.ensure_running()
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def follow_parent() -> None:
    """Of such a process: end when its parent does, however that was."""
    threading.Thread(target=_end_with_parent, name="parent", daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None, "only a child process has a parent to follow"
    parent.join()
    os._exit(1)
