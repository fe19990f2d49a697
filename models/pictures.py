"""Images that are opened where they are used: by several threads at once, a little ahead of whoever uses them."""

import _thread
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from queue import SimpleQueue
from typing import Any, TypeVar

from PIL import Image

from pairloom.models.arrays import available_cpus

Picture = Image.Image | Callable[[], Image.Image]
"""An image, or what opens one."""

S = TypeVar("S")
T = TypeVar("T")
_Answer = SimpleQueue[tuple[Any, BaseException | None]]
_loading = _thread.allocate_lock()


def opened(picture: Picture) -> Image.Image:
    """The image, its pixels loaded; called by any thread."""
    if not isinstance(picture, Image.Image):
        return picture()
    # One image may come twice, and Pillow can't have two threads load it.
    with _loading:
        picture.load()
    return picture


def mapped(
    make: Callable[[S], T], things: Iterable[S], *, ahead: int | None = None, threads: int | None = None
) -> Iterator[T]:
    """What `make` makes of each thing, in their order; raises what that raised where it is that thing's turn.

    `make` is called in as many threads as there are CPUs: meant for Pillow, which decodes, scales and encodes without
    Python's lock; what waits for answers of others wants more `threads`. Beyond the result that is asked for, `ahead`
    are ready or in the making: two a thread by default.
    """
    threads = threads or available_cpus()
    ahead = 2 * threads if ahead is None else ahead
    # As in `batches.feed`: an interrupt may come between any two steps of Python, and whoever then waits for a lock of
    # `threading` or `concurrent` waits for ever. What these queues do is single steps, and nobody joins a thread.
    given: SimpleQueue[tuple[S, _Answer] | None] = SimpleQueue()
    running: deque[_Answer] = deque()
    # When this generator is gone, whichever way, its threads end after what they are at.
    weakref.finalize(running, given.put, None)
    for _ in range(threads):
        _thread.start_new_thread(_work, (make, given, weakref.ref(running)))
    for thing in things:
        running.append(SimpleQueue())
        given.put((thing, running[-1]))
        if len(running) > ahead:
            yield _result(running.popleft())
    while running:
        yield _result(running.popleft())


def _result(answer: _Answer) -> Any:
    made, error = answer.get()
    if error is not None:
        raise error
    return made


def _work(
    make: Callable[[Any], Any],
    given: "SimpleQueue[tuple[Any, _Answer] | None]",
    running: "weakref.ref[deque[_Answer]]",
) -> None:
    while (task := given.get()) is not None:
        thing, answer = task
        if running() is None:
            continue
        try:
            answer.put((make(thing), None))
        except BaseException as error:  # handed to whoever asks for the result
            answer.put((None, error))
        # A thread that waits keeps nothing alive.
        del task, thing, answer
    # For the next thread.
    given.put(None)
