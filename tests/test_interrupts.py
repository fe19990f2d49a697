"""Real interrupts of real commands, and KeyboardInterrupt at any step of Python for those who import us."""

import _thread
import contextlib
import gc
import itertools
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from dis import opname
from pathlib import Path
from types import FrameType, ModuleType
from typing import Any

import lancedb
import psutil
import pytest
from child_processes import running, wait_until
from PIL import Image

from pairloom.flows import stages
from pairloom.flows.config import load_pipeline
from pairloom.flows.here import run_here
from pairloom.flows.nightly import nightly
from pairloom.flows.outcome import Night
from pairloom.models import pictures
from pairloom.models.batches import feed
from pairloom.models.batches.feed import Feed
from pairloom.models.pictures import mapped
from pairloom.search.release import OpenRelease
from pairloom.storage.images import decoding as images
from pairloom.storage.images.config import IngestConfig
from pairloom.storage.images.decoding import decode

WritePipelines = Callable[..., Path]

# What a shell starts with `&` ignores interrupts, and so do all that it starts.
HEARS = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
CLI = HEARS + "import sys; from pairloom.flows.start import main; sys.argv[0] = 'pairloom'; main()"
TRAINING = {"max_minutes": None, "max_steps": 60, "batch_size": 16, "threads": 1, "checkpoint_seconds": 0.05}


@dataclass(frozen=True)
class Program:
    """A program that runs in a session of its own, and what it says."""

    process: "subprocess.Popen[bytes]"
    log: Path

    @property
    def said(self) -> str:
        return self.log.read_text()

    def wait_until(self, holds: Callable[[], object]) -> None:
        wait_until(holds, self.process)

    def descendants(self) -> list[psutil.Process]:
        found: list[psutil.Process] = psutil.Process(self.process.pid).children(recursive=True)
        return found

    def end(self, interrupt: Callable[[], None]) -> str:
        """What it says last, after an interrupt that must end it and all that it started."""
        family = self.descendants()
        interrupt()
        assert self.process.wait() == 130, self.said
        wait_until(lambda: not any(map(runs, family)))
        assert "Traceback" not in self.said
        assert "Error" not in self.said
        assert not self.log.with_suffix(".out").read_text()
        assert self.said.count("stopped in ") == 1
        return self.said.splitlines()[-1]


@contextlib.contextmanager
def started(program: str, *arguments: str, log: Path, paths: tuple[Path, ...] = ()) -> Iterator[Program]:
    path = os.pathsep.join([*map(str, paths), str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    environment = os.environ | {"PYTHONPATH": path}
    with running("-c", program, *arguments, environment=environment, log=log, out=log.with_suffix(".out")) as process:
        yield Program(process, log)


def runs(process: psutil.Process) -> bool:
    with contextlib.suppress(psutil.Error):
        return bool(process.status() != psutil.STATUS_ZOMBIE)
    return False


def night(file: Path) -> Night:
    return run_here(nightly, load_pipeline(file), quiet=True)


def vectors(file: Path) -> Any:
    folder = load_pipeline(file).folder
    release = OpenRelease.open(folder).record
    table = lancedb.connect(folder / "vectors").open_table(release.model_id)
    table.checkout(release.table_version)
    return table.to_arrow().select(["item_id", "image_vector", "text_vector"]).sort_by("item_id")


def test_a_night_interrupted_in_training_goes_on_and_ends_as_an_undisturbed_one(
    tmp_path: Path, shapes: Path, write_pipelines: WritePipelines
) -> None:
    for name in ("calm", "cut"):
        (tmp_path / name).mkdir()
    calm = write_pipelines(tmp_path / "calm", shapes, training=TRAINING)
    file = write_pipelines(tmp_path / "cut", shapes, training=TRAINING)
    folder = load_pipeline(file).folder
    with started(CLI, "run", "--json", "--file", str(file), log=tmp_path / "log") as command:
        command.wait_until(lambda: list(folder.glob("runs/*/training/checkpoints/step-*[0-9]")))
        line = command.end(lambda: command.process.send_signal(signal.SIGINT))
    assert line == f"stopped in train; run `pairloom run --json --file {file}` again to go on"
    ended, expected = night(file), night(calm)
    assert (ended.outcome, ended.model_id, ended.metrics) == ("released", expected.model_id, expected.metrics)
    assert vectors(file) == vectors(calm)


def test_an_interrupt_of_the_whole_group_ends_ranks_without_a_word(
    tmp_path: Path, shapes: Path, write_pipelines: WritePipelines
) -> None:
    file = write_pipelines(tmp_path, shapes, training=TRAINING | {"processes": 2, "max_steps": 100_000})
    with started(CLI, "run", "--file", str(file), log=tmp_path / "log") as command:
        command.wait_until(lambda: list(load_pipeline(file).folder.glob("runs/*/training/checkpoints/step-*[0-9]")))
        assert len(command.descendants()) >= 2
        line = command.end(lambda: os.killpg(command.process.pid, signal.SIGINT))
    assert line.startswith("stopped in train; ")


@pytest.fixture
def slow_decoders(tmp_path: Path) -> Path:
    """A folder on the path that makes every decoding process hang at its first image."""
    folder = tmp_path / "slow"
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(
        "import sys\n"
        "if 'pairloom.storage.images.worker' in sys.orig_argv:\n"
        "    import pathlib, time, PIL.Image\n"
        f"    seen = pathlib.Path({str(tmp_path / 'decoding')!r})\n"
        "    PIL.Image.open = lambda *_, **__: (seen.touch(), time.sleep(3600))\n"
    )
    return folder


def test_an_interrupt_of_the_whole_group_ends_ingest_and_its_decoders(
    tmp_path: Path, shapes: Path, write_pipelines: WritePipelines, slow_decoders: Path
) -> None:
    ingest = {"max_side": 64, "workers": 2, "timeout_seconds": 3_000}
    for name in ("calm", "cut"):
        (tmp_path / name).mkdir()
    calm = write_pipelines(tmp_path / "calm", shapes, ingest=ingest)
    file = write_pipelines(tmp_path / "cut", shapes, ingest=ingest)
    arguments = ("ingest", "--file", str(file))
    with started(CLI, *arguments, log=tmp_path / "log", paths=(slow_decoders,)) as command:
        command.wait_until((tmp_path / "decoding").exists)
        assert len(command.descendants()) == 2
        line = command.end(lambda: os.killpg(command.process.pid, signal.SIGINT))
    assert line == f"stopped in ingest; run `pairloom ingest --file {file}` again to go on"
    ended, expected = (stages.ingest(load_pipeline(each)) for each in (file, calm))
    assert ended == expected
    assert ended.rows == 60


BUSY = (
    HEARS + "import sys, time, pairloom.flows.interrupt as interrupt\n"
    "sys.argv = ['pairloom', 'run', '-p', 'a shop']\n"
    "interrupt.LAST_WORDS_SECONDS = 3600\n"
    "interrupt.watch.last_words = lambda: time.sleep(3600)\n"
    "interrupt.watch.begin()\n"
    "print('ready', file=sys.stderr, flush=True)\n"
    "{}\n"
)
IN_C = "import ctypes; ctypes.CDLL(None).sleep(3600)"


@pytest.mark.parametrize("work", [IN_C, "time.sleep(3600)", "while True: pass"])
def test_a_second_interrupt_ends_it_at_once_whatever_both_threads_are_at(tmp_path: Path, work: str) -> None:
    with started(BUSY.format(work), log=tmp_path / "log") as program:
        program.wait_until(lambda: "ready" in program.said)
        program.process.send_signal(signal.SIGINT)
        program.wait_until(lambda: "again" in program.said)
        line = program.end(lambda: program.process.send_signal(signal.SIGINT))
    assert line == "stopped in run; run `pairloom run -p 'a shop'` again to go on"


def test_a_terminal_gets_its_cursor_back() -> None:
    ours, theirs = os.openpty()
    program = HEARS + "import os, time\nfrom pairloom.flows.interrupt import watch\nwatch.begin()\n"
    program += "os.write(2, b'\\x1b[?25lready')\ntime.sleep(3600)"
    process = subprocess.Popen([sys.executable, "-c", program], stderr=theirs)
    said = b""
    while not said.endswith(b"ready"):
        said += os.read(ours, 1_000)
    process.send_signal(signal.SIGINT)
    assert process.wait() == 130
    assert os.read(ours, 1_000).startswith(b"\x1b[?25h\r\nstopped in ")
    os.close(ours)
    os.close(theirs)


def test_an_ignored_interrupt_stays_ignored() -> None:
    program = "import signal\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\n"
    program += (
        "from pairloom.flows.interrupt import watch\nwatch.begin()\nsignal.raise_signal(signal.SIGINT)\nprint('done')"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("done\n", "")


def test_a_child_ends_with_its_parent_however_that_ended(tmp_path: Path) -> None:
    (tmp_path / "follower.py").write_text(
        "import multiprocessing, time\n"
        "from pathlib import Path\n"
        "from pairloom.models.child_process import follow_parent\n"
        "def follow(here):\n"
        "    follow_parent()\n"
        "    (Path(here) / 'ready').touch()\n"
        "    time.sleep(3600)\n"
    )
    program = "import multiprocessing, sys, follower\n"
    program += "multiprocessing.get_context('spawn').Process(target=follower.follow, args=(sys.argv[1],)).start()"
    with started(program, str(tmp_path), log=tmp_path / "log", paths=(tmp_path,)) as parent:
        parent.wait_until((tmp_path / "ready").exists)
        family = parent.descendants()
        assert list(filter(runs, family))
        parent.process.kill()
        wait_until(lambda: not any(map(runs, family)))


def listens(opcode: int) -> bool:
    """Whether Python looks for signals after an instruction of this kind."""
    return opname[opcode].startswith(("CALL", "RESUME", "JUMP_BACKWARD"))


@contextlib.contextmanager
def interrupted_at(number: int, module: ModuleType) -> Iterator[list[int]]:
    """KeyboardInterrupt at the place of this number among all in the module and in `threading` where one can come."""
    files, count, before = {module.__file__, threading.__file__}, [0], dict[FrameType, int]()

    def trace(frame: FrameType, event: str, _argument: object) -> Any:
        if frame.f_code.co_filename not in files:
            return None
        frame.f_trace_opcodes = True
        if event == "opcode":
            came_from = before.get(frame)
            before[frame] = frame.f_code.co_code[frame.f_lasti]
            count[0] += came_from is not None and listens(came_from)
            if count[0] == number:
                sys.settrace(None)
                raise KeyboardInterrupt
        return trace

    previous = sys.gettrace()
    sys.settrace(trace)
    try:
        # A condition that is interrupted between giving its lock back and taking it again complains of that.
        with contextlib.suppress(KeyboardInterrupt, RuntimeError):
            yield count
    finally:
        sys.settrace(previous)


def interrupt_everywhere(use: Callable[[], object], module: ModuleType, numbers: Iterable[int]) -> int:
    """Interrupt `use` at each of these places in turn; returns the last one that there was.

    How many there are varies: how often a queue is looked at depends on how far other threads are.
    """
    last = 0
    for number in numbers:
        reached = True
        with interrupted_at(number, module):
            use()
            reached = False
        if not reached:
            break
        last = number
    return last


def wait_for_threads(count: int) -> None:
    """Return once no more than these threads run."""
    gc.collect()
    wait_until(lambda: _thread._count() <= count)


def use_feed() -> list[Any]:
    make: Any = lambda step: step  # noqa: E731  # batches are what they are made of here
    with Feed(make, 3) as batches:
        taken = [batches.next() for _ in range(3)]
        batches.restart(make, 40)
        return taken + [batches.next() for _ in range(2)]


def test_a_feed_interrupted_anywhere_hangs_nobody() -> None:
    with interrupted_at(-1, feed) as count:
        assert use_feed() == [3, 4, 5, 40, 41]
    assert count[0] > 40
    assert interrupt_everywhere(use_feed, feed, itertools.count(1)) > 40
    assert use_feed() == [3, 4, 5, 40, 41]


def test_the_thread_of_a_feed_that_nobody_entered_ends_with_it() -> None:
    make: Any = lambda step: step  # noqa: E731  # as above
    threads = _thread._count()
    batches = Feed(make, 0)
    batches.next()
    del batches
    wait_for_threads(threads)


def test_a_feed_hands_over_what_the_making_raised_and_goes_on() -> None:
    def make(step: int) -> Any:
        if step == 1:
            raise ValueError("no batch 1")
        return step

    threads = _thread._count()
    with Feed(make, 0) as batches:
        assert batches.next() == 0  # type: ignore[comparison-overlap]  # as above
        with pytest.raises(ValueError, match="no batch 1"):
            batches.next()
        assert batches.next() == 2  # type: ignore[comparison-overlap]  # as above
    wait_for_threads(threads)


def test_work_of_threads_interrupted_anywhere_hangs_nobody() -> None:
    def use() -> list[str]:
        return list(mapped(str, range(6), ahead=2))

    threads = _thread._count()
    with interrupted_at(-1, pictures) as count:
        assert use() == list("012345")
    assert count[0] > 30
    assert interrupt_everywhere(use, pictures, itertools.count(1)) > 30
    assert use() == list("012345")
    wait_for_threads(threads)


# What an interrupt takes the clean-up of is left to Python.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.usefixtures("warm_decoders")
def test_decoding_interrupted_anywhere_hangs_nobody(tmp_path: Path) -> None:
    Image.new("RGB", (20, 20)).save(tmp_path / "a.png")
    paths = [(number, tmp_path / "a.png") for number in range(3)]

    def use() -> list[int]:
        return [number for number, _ in decode(paths, IngestConfig(workers=1))]

    with interrupted_at(-1, images) as count:
        assert use() == [0, 1, 2]
    # Each costs a process; these are all kinds of places.
    assert interrupt_everywhere(use, images, range(1, count[0], max(count[0] // 25, 1))) > count[0] / 2
    assert use() == [0, 1, 2]
