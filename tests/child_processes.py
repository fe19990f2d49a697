"""Child processes of tests, which end with the block that started them and, however that happens, with the tests."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import TypeVar

import psutil

STOP_SECONDS = 15

T = TypeVar("T")


@contextlib.contextmanager
def running(
    *arguments: str, environment: Mapping[str, str] | None = None, log: Path | None = None, out: Path | None = None
) -> Iterator["subprocess.Popen[bytes]"]:
    """`python …` in a session of its own, which ends with this block, together with all that it started.

    `log` takes what it says, `out` what it says on standard output, if that shall be apart.
    """
    with (log or Path(os.devnull)).open("wb") as said, out.open("wb") if out else nullcontext(said) as standard:
        process = subprocess.Popen(
            [sys.executable, *arguments], env=environment, stdout=standard, stderr=said, start_new_session=True
        )
    # It reads a pipe that nobody writes to: the pipe's end is our end, even where that is a kill.
    watch = subprocess.Popen(
        [sys.executable, __file__, str(process.pid)], stdin=subprocess.PIPE, start_new_session=True
    )
    assert watch.stdin is not None
    try:
        yield process
    finally:
        watch.stdin.close()
        process.wait()
        watch.wait()


def wait_until(condition: Callable[[], T | None], *processes: "subprocess.Popen[bytes]", pause: float = 0.01) -> T:
    """What `condition` returns, once that is true; AssertionError where one of the processes ends before.

    How long that takes is the machine's affair: the suite's limit for a test is the only one.
    """
    while True:
        ended = [process for process in processes if process.poll() is not None]
        if found := condition():
            return found
        assert not ended, f"{ended[0].args!r} ended too early, with status {ended[0].returncode}"
        time.sleep(pause)


def end(pid: int) -> None:
    """End a process and all that it started, kindly at first."""
    family: list[psutil.Process] = []
    with contextlib.suppress(psutil.NoSuchProcess):
        first = psutil.Process(pid)
        family = [first, *first.children(recursive=True)]
        first.terminate()
    _, stubborn = psutil.wait_procs(family, timeout=STOP_SECONDS)
    for process in stubborn:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    # Whose parent was gone before is in nobody's family, but still in the session's group.
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)


if __name__ == "__main__":
    sys.stdin.buffer.read()
    end(int(sys.argv[1]))
