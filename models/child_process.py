"""What every process that `multiprocessing` starts for us does first."""

import multiprocessing
import os
import signal
import threading


def follow_parent() -> None:
    """Leave interrupts to the parent, though a terminal sends them to both, and end when it does, however that was."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, name="parent", daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None, "only a child process has a parent to follow"
    parent.join()
    os._exit(1)
