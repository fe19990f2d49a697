"""Images decoded in child processes with limits, so that a hostile or broken file costs only itself."""

import os
import selectors
import subprocess
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from io import BytesIO
from itertools import chain, islice
from pathlib import Path
from queue import SimpleQueue
from typing import TypeVar

from PIL.Image import Image
from PIL.Image import open as open_image

from pairloom.storage.images.config import IngestConfig
from pairloom.storage.images.location import Address, FileSlice, NoImageError, Origin
from pairloom.storage.images.stored_image import DecodedImage, RejectedImage, as_stored, decode_file, open_as_stored
from pairloom.storage.images.worker import LONGEST, message, read_message, understood
from pairloom.storage.reasons import Reason

COMMAND = (sys.executable, "-P", "-m", "pairloom.storage.images.worker")
_FILES_PER_TASK = 32
_TASKS_AHEAD = 3
INLINE_BYTES = 2**25
"""Bytes of images that a thread reads before it has them decoded."""
_SENT_AHEAD = 2**13
"""Longest request that waits in the pipe to a child which may be writing a reply; every system's pipes hold more."""
_START_SECONDS = 120.0
_ABSENT = "there is no such file"

K = TypeVar("K")
_Answer = SimpleQueue[list[DecodedImage | RejectedImage] | BaseException]
_Task = tuple[list[Origin], _Answer]


def decode(items: Iterable[tuple[K, Origin]], config: IngestConfig) -> Iterator[tuple[K, DecodedImage | RejectedImage]]:
    """What to store of each image, or why not, in the order of `items`, which are read a little ahead.

    Raises RuntimeError where a child cannot even start.
    """
    children = [DecodingProcess(config) for _ in range(config.workers or _available_cpus())]
    # An interrupt can leave a future's or an executor's lock held for ever; operations of these queues are single ones.
    given: SimpleQueue[_Task | None] = SimpleQueue()
    threads = [threading.Thread(target=_work, args=(child, given), name="decode", daemon=True) for child in children]
    source = iter(items)
    tasks = iter(lambda: list(islice(source, _FILES_PER_TASK)), [])
    running: deque[tuple[list[K], _Answer]] = deque()
    try:
        for thread in threads:
            thread.start()
        for task in tasks:
            running.append(([key for key, _ in task], SimpleQueue()))
            given.put(([origin for _, origin in task], running[-1][1]))
            if len(running) >= _TASKS_AHEAD * len(children):
                yield from _results(*running.popleft())
        while running:
            yield from _results(*running.popleft())
    finally:
        for child in children:
            child.interrupt()
            given.put(None)
        for thread in threads:
            if thread.is_alive():
                thread.join()
        for child in children:
            child.close()


def open_stored(content: bytes, *, side: int | None = None) -> Image:
    """One of the corpus' own images, decoded: RGB, upright.

    With `side`, a JPEG may come smaller, and sooner, as far as both of its sides stay at least so long.
    """
    with open_image(BytesIO(content)) as image:
        if side is not None:
            image.draft("RGB", (side, side))
        return image.convert("RGB")


def open_query_image(query: Path | Image, config: IngestConfig) -> Image:
    """The image of a user's query, made like the stored ones: RGB, upright, on white, cut where these are, at most
    `max_side`.

    Decoded in this process: for files that the user owns. Raises ValueError for one that cannot be read.
    """
    if not isinstance(query, Path):
        return as_stored(query, config.limits)
    if not query.is_file():
        raise ValueError(f"image {query}: {_ABSENT}")
    try:
        return open_as_stored(query, config.limits)
    except ValueError as error:
        raise ValueError(f"image {query}: {error}") from error


def read_example(path: Path, config: IngestConfig) -> bytes:
    """What ingest would store of a user's image: the bytes of a JPEG or PNG, made like those of `open_query_image`.

    Decoded in this process: for files that the user owns. Raises ValueError for one that cannot be read.
    """
    found = decode_file(path, config.limits) if path.is_file() else RejectedImage(Reason.IMAGE_NOT_FOUND, _ABSENT)
    if isinstance(found, RejectedImage):
        raise ValueError(f"image {path}: {found.message}")
    return found.content


def _work(child: "DecodingProcess", given: "SimpleQueue[_Task | None]") -> None:
    while (task := given.get()) is not None:
        origins, answer = task
        try:
            answer.put([image for contents in _contents(origins) for image in child.decoded(contents)])
        except BaseException as error:  # handed to whoever asks for the results
            answer.put(error)


def _contents(origins: list[Origin]) -> Iterator[list["Content | RejectedImage"]]:
    """What to send a child, in pieces that memory can hold."""
    contents: list[Content | RejectedImage] = []
    length = 0
    for origin in origins:
        contents.append(content_of(origin))
        length += len(contents[-1]) if isinstance(contents[-1], bytes) else 0
        if length > INLINE_BYTES:
            yield contents
            contents, length = [], 0
    yield contents


def content_of(origin: Origin) -> "Content | RejectedImage":
    """What to send a decoding process of an image: where it is in a file, or its bytes; or why there are none."""
    if isinstance(origin, Path | FileSlice):
        return origin
    assert not isinstance(origin, Address), "what is at addresses is fetched before it is decoded"
    try:
        content = origin()
    except NoImageError as error:
        return RejectedImage(Reason.IMAGE_MISSING, str(error)[:300])
    except (OSError, ValueError) as error:
        said = " ".join(str(error).split())[:300]
        return RejectedImage(Reason.IMAGE_UNREADABLE, said, transient=isinstance(error, OSError))
    if len(content) > LONGEST:
        return RejectedImage(Reason.IMAGE_TOO_LARGE, f"{len(content)} bytes are more than {LONGEST}")
    return content


def _request(content: "Content") -> bytes:
    match content:
        case Path():
            return message({}, os.fsencode(content))
        case FileSlice():
            return message({"offset": content.offset, "length": content.length}, os.fsencode(content.path))
        case _:
            return message({"inline": True}, content)


def _results(keys: list[K], answer: "_Answer") -> Iterator[tuple[K, DecodedImage | RejectedImage]]:
    found = answer.get()
    if isinstance(found, BaseException):
        raise found
    return zip(keys, found, strict=True)


def _available_cpus() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


Content = Path | FileSlice | bytes
"""Of an image: its file, a part of one, or its bytes."""


class _ChildDiedError(Exception):
    pass


class DecodingProcess:
    """One decoding process, started when first needed and again after each death."""

    def __init__(self, config: IngestConfig) -> None:
        self._config = config
        self._process: subprocess.Popen[bytes] | None = None
        self._selector, self._room = selectors.DefaultSelector(), selectors.DefaultSelector()
        """When there is something to read, and when there is room to write."""
        self._interrupted = False

    def decoded(self, contents: Sequence[Content | RejectedImage]) -> list[DecodedImage | RejectedImage]:
        """One result per image, in order; what is rejected already stays so."""
        found = self.decode([each for each in contents if not isinstance(each, RejectedImage)])
        return [each if isinstance(each, RejectedImage) else next(found) for each in contents]

    def decode(self, contents: list[Content]) -> Iterator[DecodedImage | RejectedImage]:
        """One result per image, in order."""
        done = 0
        suspected = False
        while done < len(contents):
            # The child answers in order, so what it died on is the first unanswered file. That one is tried again alone
            # in a fresh process: the harm may have been done by a file before it.
            batch = contents[done : done + 1] if suspected else contents[done:]
            try:
                for image in self._ask(batch):
                    yield image
                    done += 1
                suspected = False
            except TimeoutError:
                self._kill()
                yield RejectedImage(Reason.IMAGE_TIMEOUT, f"took more than {self._config.timeout_seconds:g} seconds")
                done += 1
                suspected = False
            except _ChildDiedError as error:
                self._kill()
                if suspected:
                    yield RejectedImage(Reason.IMAGE_CRASHED, f"ended the decoding process twice: {error}")
                    done += 1
                suspected = not suspected

    def interrupt(self) -> None:
        """End the process: a `decode` under way in another thread raises RuntimeError soon, and so do later ones."""
        self._interrupted = True
        if (process := self._process) is not None:
            process.kill()

    def close(self) -> None:
        """End the process and free what it held; no other thread may be using it."""
        self._interrupted = True
        self._kill()

    def _ask(self, contents: list[Content]) -> Iterator[DecodedImage | RejectedImage]:
        if self._process is None:
            self._start()
        try:
            self._send(_request(contents[0]))
            for following in chain(map(_request, contents[1:]), [b""]):
                # One request waits while another is worked on; more, or a long one, could fill both pipes and block
                # both sides.
                ahead = len(following) <= _SENT_AHEAD
                if ahead:
                    self._send(following)
                found = understood(*self._receive(self._config.timeout_seconds))
                if not ahead:
                    self._send(following)
                yield found
        except (OSError, ValueError, KeyError, TypeError) as error:
            if isinstance(error, TimeoutError):
                raise
            raise _ChildDiedError(self._last_words(error)) from error

    def _start(self) -> None:
        if self._interrupted:
            raise RuntimeError("decoding was stopped")
        # Where `pairloom` was found, not where this file lies: in a checkout without links that is elsewhere.
        here = str(Path(str(sys.modules["pairloom"].__file__)).parents[1])
        # Only what Python needs to start: a child that reads hostile files has no use for secrets.
        environment = {name: os.environ[name] for name in ("LD_LIBRARY_PATH", "SYSTEMROOT") if name in os.environ}
        paths = [here, *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
        environment["PYTHONPATH"] = os.pathsep.join(paths)
        environment["OPENBLAS_NUM_THREADS"] = environment["OMP_NUM_THREADS"] = "1"
        with tempfile.TemporaryFile() as complaints:
            self._process = subprocess.Popen(
                COMMAND,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=complaints,
                env=environment,
                bufsize=0,
                process_group=0,  # a terminal's Ctrl-C is for us alone
            )
            if self._interrupted:
                self._process.kill()
            assert self._process.stdout is not None
            assert self._process.stdin is not None
            os.set_blocking(self._process.stdin.fileno(), False)
            self._selector.register(self._process.stdout, selectors.EVENT_READ)
            self._room.register(self._process.stdin, selectors.EVENT_WRITE)
            limits = {
                "limits": asdict(self._config.limits),
                "memory_mb": self._config.memory_mb,
                "cpu_seconds": int(self._config.timeout_seconds) + 1,
            }
            try:
                self._send(message(limits))
                self._receive(_START_SECONDS)
            except OSError as error:
                self._kill()
                complaints.seek(0)
                said = complaints.read().decode(errors="replace").strip().splitlines()[-1:]
                raise RuntimeError(f"an image decoding process did not start: {said or error}") from error

    def _send(self, content: bytes) -> None:
        assert self._process is not None
        assert self._process.stdin is not None
        view, deadline = memoryview(content), time.monotonic() + self._config.timeout_seconds
        while view:
            # A child that a file has taken over need not read.
            if not self._room.select(max(0.0, deadline - time.monotonic())):
                raise TimeoutError
            view = view[os.write(self._process.stdin.fileno(), view) :]

    def _receive(self, seconds: float) -> tuple[dict[str, object], bytes]:
        assert self._process is not None
        pipe = self._process.stdout
        assert pipe is not None
        deadline = time.monotonic() + seconds

        def read(length: int) -> bytes:
            found = bytearray()
            while len(found) < length:
                if not self._selector.select(max(0.0, deadline - time.monotonic())):
                    raise TimeoutError
                block = os.read(pipe.fileno(), min(length - len(found), 2**20))
                if not block:
                    raise ConnectionError("the process ended")
                found += block
            return bytes(found)

        return read_message(read)

    def _last_words(self, error: Exception) -> str:
        process = self._process
        if process is None or not isinstance(error, ConnectionError):
            return f"{type(error).__name__}: {error}"[:200]
        try:
            status = process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            return str(error)
        return f"signal {-status}" if status < 0 else f"exit status {status}"

    def _kill(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        process.kill()
        process.wait()
        assert process.stdin is not None
        assert process.stdout is not None
        self._selector.unregister(process.stdout)
        self._room.unregister(process.stdin)
        process.stdin.close()
        process.stdout.close()
