"""What faults are tried on: the three tiny nights as they ought to end, and children that run them."""

import contextlib
import importlib
import multiprocessing
import os
import sys
import warnings
from collections.abc import Callable
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, TypeVar

from benchmarks.tiny_nights import Content, Nights, Point, content, listening, served_content
from pairloom.storage.releases import release_log

NUMBERS = (1, 2, 3)
FORK = multiprocessing.get_context("fork")

T = TypeVar("T")


class UnlikeError(AssertionError):
    """What a fault left is not what it may leave."""


class Undisturbed:
    """The three nights as they ought to end, with the state that each begins from."""

    def __init__(self, nights: Nights) -> None:
        self.nights = nights
        self.points: dict[int, list[Point]] = {}
        self.after: dict[int, Content] = {}
        for number in NUMBERS:
            nights.prepare(number)
            nights.keep(f"before-{number}")
            reached: list[Point] = []
            with listening(lambda point, path, into=reached: into.append((point, self.name(path)))):  # type: ignore[misc]  # bound to tonight's list
                night = nights.run()
            assert night.outcome == "released", night.reason
            self.points[number] = reached
            self.after[number] = content(nights.stored)

    def name(self, path: Path) -> str:
        """A file as reports name it."""
        return path.relative_to(self.nights.stored).as_posix()

    def begin(self, number: int) -> None:
        """Go back to the moment before a night."""
        self.nights.prepare(number)
        self.nights.restore(f"before-{number}")

    def check_served(self, number: int) -> None:
        """Raises UnlikeError where readers don't get what was released before the night or after it."""
        if not release_log(self.nights.stored).numbers() and number == NUMBERS[0]:
            return
        now = content_served(self.nights.stored)
        ends = [self.after[each] for each in (number - 1, number) if each in self.after]
        if all(now.differences(content_served_of(each)) for each in ends):
            raise UnlikeError(f"readers get neither the release before night {number} nor the one after it")

    def check_content(self, number: int, what: str) -> None:
        """Raises UnlikeError where anything is not as the undisturbed night left it."""
        if wrong := self.after[number].differences(content(self.nights.stored)):
            raise UnlikeError(f"{what} of night {number} left other {', '.join(wrong)}")

    def check_rerun(self, number: int) -> None:
        """Runs the night again; raises UnlikeError where it doesn't end as the undisturbed one did."""
        self.nights.run()
        self.check_content(number, "the rerun")
        again = self.nights.run()
        if again.outcome != "unchanged":
            raise UnlikeError(f"a further run of night {number} ended {again.outcome}: {again.reason}")


def content_served(folder: Path) -> Content:
    """What readers get, and nothing else."""
    return Content(items={}, quarantine=[], pairs=[], **served_content(folder))


def content_served_of(whole: Content) -> Content:
    """The part of a content that readers get."""
    return Content(
        items={}, quarantine=[], pairs=[], served=whole.served, vectors_ND=whole.vectors_ND, release=whole.release
    )


def started(function: Callable[..., Any], *arguments: Any) -> BaseProcess:
    """A forked child that calls a function."""
    process = FORK.Process(target=function, args=arguments, daemon=True)
    process.start()
    return process


def in_child(function: Callable[..., T], *arguments: Any) -> T:
    """What a function returns that is called in a forked child; RuntimeError where it raised."""
    ours, theirs = FORK.Pipe(duplex=False)
    process = started(_answer, theirs, function, arguments)
    theirs.close()
    try:
        worked, answer = ours.recv()
    except EOFError:
        process.join()
        raise RuntimeError(f"{function.__name__} ended with status {process.exitcode}") from None
    process.join()
    if not worked:
        raise RuntimeError(answer)
    found: T = answer
    return found


def _answer(theirs: Connection, function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    try:
        answer = (True, function(*arguments))
    except Exception as error:
        answer = (False, f"{type(error).__name__}: {error}")
    theirs.send(answer)


def imported_by_nights(folder: Path) -> list[str]:
    """The modules that the three nights import."""
    Undisturbed(Nights(folder))
    return sorted(sys.modules)


def import_all(folder: Path) -> None:
    """Import what nights import, so that children start with it.

    Lance is not safe to fork once its threads run: the process that calls this opens nothing itself, then or later.
    """
    warnings.filterwarnings("ignore", message="lance is not fork-safe")
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # its threads don't survive a fork
    for name in in_child(imported_by_nights, folder):
        # Some are made up by packages, under names that nothing can import.
        with contextlib.suppress(ImportError):
            importlib.import_module(name)


def say(line: str) -> None:
    """Tell those who wait."""
    sys.stderr.write(f"{line}\n")
