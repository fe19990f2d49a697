"""Ctrl-C on the command line: one line that says how to go on, exit status 130, and nothing left running.

All that is stored survives a kill at any moment, so an interrupt has nothing to unwind: it ends the process as a kill
would, with good manners. A thread of its own hears of SIGINT through a pipe (`signal.set_wakeup_fd`), which works while
the main thread is deep in a library, and KeyboardInterrupt is never raised. Every other thread blocks SIGINT: children
inherit that, so none of them gets the SIGINT that a terminal sends to all. The main thread stops where it is, whatever
locks it holds: what runs from there on takes none of `threading`'s and imports nothing. This module is loaded first,
and itself loads nothing that takes time.
"""

import _thread
import atexit
import contextlib
import os
import shlex
import signal
import sys
import time
from collections.abc import Callable
from typing import NoReturn

import psutil

INTERRUPTED = 130
"""The exit status: 128 and the signal's number, as shells count."""

LAST_WORDS_SECONDS = 2.0
END_SECONDS = 1.0
"""How long children may take to end before they are killed."""

SHOW_CURSOR = "\x1b[?25h"


class Watch:
    """What is known of the work under way when an interrupt comes."""

    def __init__(self) -> None:
        self.stage: Callable[[], str | None] = lambda: None
        """The stage that runs, by name."""
        self.last_words: Callable[[], None] = lambda: None
        """What others have to be told, at leisure of `LAST_WORDS_SECONDS`, while everything still runs."""
        self._begun = False

    def begin(self) -> None:
        """Take interrupts from here on; in the main thread, before there are others. Once is enough.

        Where they are ignored, as in what a script started with `&`, they stay so.
        """
        if self._begun or signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
            return
        self._begun = True
        heard, wakeup = os.pipe()
        os.set_blocking(wakeup, False)
        signal.set_wakeup_fd(wakeup, warn_on_full_buffer=False)
        signal.signal(signal.SIGINT, _pause)
        # Started before the others block it, this thread alone does not.
        _thread.start_new_thread(self._wait, (heard,))
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        # When all is done, Python's last steps would restore what the system does to those who don't listen.
        atexit.register(signal.signal, signal.SIGINT, signal.SIG_IGN)

    def _wait(self, heard: int) -> None:
        _next_interrupt(heard)
        _thread.start_new_thread(self._end, ())
        _next_interrupt(heard)
        _leave(patience=0.0)

    def _end(self) -> None:
        with contextlib.suppress(OSError):
            _say(self._line())
        told = _thread.allocate_lock()
        told.acquire()
        _thread.start_new_thread(self._tell, (told,))
        told.acquire(timeout=LAST_WORDS_SECONDS)
        _leave(patience=END_SECONDS)

    def _line(self) -> str:
        command = shlex.join(["pairloom", *sys.argv[1:]]).replace("\n", " ")
        where = self.stage() or next((each for each in sys.argv[1:] if not each.startswith("-")), "pairloom")
        return f"stopped in {where}; run `{command}` again to go on"

    def _tell(self, told: _thread.LockType) -> None:
        # Whatever it raises, there is nobody left to tell.
        with contextlib.suppress(Exception):
            self.last_words()
        told.release()


watch = Watch()
"""This process's."""


def _next_interrupt(heard: int) -> None:
    while os.read(heard, 1) != bytes([signal.SIGINT]):
        pass  # other signals with a handler in Python are announced, too


def _say(line: str) -> None:
    """Write the line as the last that this process says: what still runs must not write over it, nor complain."""
    terminal = os.isatty(2)
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):
        os.dup2(nowhere, stream)
    # Progress bars hide the cursor, and leave it at the end of their last line.
    os.write(kept, (f"{SHOW_CURSOR}\n{line}\n" if terminal else f"{line}\n").encode(errors="replace"))


def _leave(*, patience: float) -> NoReturn:
    """End all children, theirs too, and this process."""
    try:
        _end_children(patience)
    finally:
        os._exit(INTERRUPTED)


def _end_children(patience: float) -> None:
    own = psutil.Process()
    # Twice: of a child that is being started, the first look may see nothing.
    for _ in range(2):
        children = own.children(recursive=True)
        if patience and children:
            _signal(children, signal.SIGTERM)
            give_up = time.monotonic() + patience
            while any(map(_runs, children)) and time.monotonic() < give_up:
                time.sleep(0.01)
            children += [each for each in own.children(recursive=True) if each not in children]
        _signal(children, signal.SIGKILL)


def _signal(processes: list[psutil.Process], number: signal.Signals) -> None:
    for process in processes:
        with contextlib.suppress(psutil.Error):
            process.send_signal(number)


def _runs(process: psutil.Process) -> bool:
    try:
        return bool(process.status() != psutil.STATUS_ZOMBIE)
    except psutil.Error:
        return False


def _pause(*_: object) -> None:
    # The handler, in the main thread: nothing more begins there, no child either.
    while True:
        time.sleep(3600)
