"""Tiny nights that fail or are killed everywhere: nothing is lost, doubled or mixed, and the rerun is as undisturbed.

    python -m benchmarks.faults points
    python -m benchmarks.faults kills --kills 500
    python -m benchmarks.faults together --times 40
    python -m benchmarks.faults disk --times 24
    python -m benchmarks.faults server

Three nights over sixteen pictures are played (`benchmarks/nights.py`): a first one, one with rows that are new,
changed, gone and broken, and one that trains again. *points*: each failpoint of each night in turn raises an OSError,
as a full disk does, and then kills the process. *kills*: SIGKILL comes at a seeded random moment of a night, again
and again until the night has ended, and then the next night begins; the three nights are played over and over.
*together*: two processes run the second night, one a little later than the other, from not at all to the length of a
night; and so do a night, an ingest and a rollback. *disk*: the root is a tmpfs that is full after a part of what a
night writes, from nothing to nearly all; then it gets room. *server*: a Prefect server is killed amid the training of
a night that it runs.

After each fault what readers get must be the release before or the one after, whole. Once the night was run again, all
that is stored and served must be that of an undisturbed run: items, rejections, rows and vectors served (within 1e-6),
pairs, model, metrics, number and reason of the release; a further run must find nothing to do.

Nights run in children that are forked from a process which has everything imported, and has opened nothing: Lance is
not safe to fork once its threads run.
"""

import argparse
import contextlib
import errno
import importlib
import multiprocessing
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections import Counter
from collections.abc import Callable
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import numpy as np

from benchmarks.nights import Content, Nights, Point, content, failing, listening, served_content
from pairloom.storage.files import DiskFullError
from pairloom.storage.records import StaleWriterError
from pairloom.storage.releases import release_log, roll_back
from pairloom.tasks.ingest import ingest
from pairloom.tasks.stage import standing

NUMBERS = (1, 2, 3)
FORK = multiprocessing.get_context("fork")

T = TypeVar("T")


class UnlikeError(AssertionError):
    """What a fault left is not what it may leave."""


def fail() -> NoReturn:
    """What a full disk does."""
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def die() -> NoReturn:
    """What `kill -9` does."""
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError("this process is dead")


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


def raise_at(undisturbed: Undisturbed, number: int, at: int) -> None:
    """A night whose `at`th failpoint raises, and its rerun, in this process."""
    undisturbed.begin(number)
    try:
        with listening(failing(at, fail)):
            undisturbed.nights.run()
    except DiskFullError as error:
        if str(undisturbed.nights.stored.parent) not in str(error):
            raise UnlikeError(f"what is full is not named: {error}") from error
    else:
        # What follows the release, like clean-up, may fail without a word.
        undisturbed.check_content(number, "a night that ended though the disk was full")
    undisturbed.check_served(number)
    undisturbed.check_rerun(number)


def die_at(nights: Nights, at: int) -> None:
    """A night whose `at`th failpoint kills the process."""
    with listening(failing(at, die)):
        nights.run()
    sys.exit("the failpoint was not reached")


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
    """Import what nights import, so that children start with it."""
    for name in in_child(imported_by_nights, folder):
        # Some are made up by packages, under names that nothing can import.
        with contextlib.suppress(ImportError):
            importlib.import_module(name)


def all_points(folder: Path, every: int) -> None:
    """Each failpoint of each night raises, and kills."""
    undisturbed = in_child(Undisturbed, Nights(folder / "points"))
    wrong, tried = [], Counter[str]()
    for number in NUMBERS:
        for at, point in list(enumerate(undisturbed.points[number]))[::every]:
            for kind in ("raises", "kills"):
                tried[kind] += 1
                try:
                    if kind == "raises":
                        in_child(raise_at, undisturbed, number, at)
                    else:
                        undisturbed.begin(number)
                        process = started(die_at, undisturbed.nights, at)
                        process.join()
                        assert process.exitcode == -signal.SIGKILL, f"ended with status {process.exitcode}"
                        in_child(undisturbed.check_served, number)
                        in_child(undisturbed.check_rerun, number)
                except (RuntimeError, AssertionError) as error:
                    wrong.append(f"night {number}, {' '.join(point)} {kind}: {error}")
                    say(wrong[-1])
        say(f"night {number}: {len(undisturbed.points[number])} failpoints")
    counted = ", ".join(f"{count} times one {kind}" for kind, count in tried.items())
    sys.stdout.write(f"{counted}; {len(wrong)} wrong\n")
    sys.exit(bool(wrong))


def watched_run(nights: Nights, stage: Any) -> None:
    """A night that says in shared memory which stage it is in."""
    import threading

    def tell() -> None:
        while True:
            now = standing()
            stage.value = (now.stage if now else "between stages").encode()
            time.sleep(0.001)

    threading.Thread(target=tell, daemon=True).start()
    nights.run()


def random_kills(folder: Path, kills: int, seed: int) -> None:
    """SIGKILL at random moments, until there were so many."""
    random, load, began = np.random.default_rng(seed), os.getloadavg()[0], time.perf_counter()
    undisturbed = in_child(Undisturbed, Nights(folder / "kills"))
    nights = undisturbed.nights
    seconds = {}
    for number in NUMBERS:
        undisturbed.begin(number)
        start = time.perf_counter()
        in_child(nights.run)
        seconds[number] = time.perf_counter() - start
    stages, wrong, done, rerun = Counter[str](), list[str](), 0, 0
    stage = FORK.Array("c", 32, lock=False)
    while done < kills:
        number = NUMBERS[rerun % len(NUMBERS)]
        rerun += 1
        undisturbed.begin(number)
        while done < kills:
            stage.value = b"start"
            process = started(watched_run, nights, stage)
            process.join(random.uniform(0, 1.2 * seconds[number]))
            process.kill()
            process.join()
            if process.exitcode == 0:
                break
            done += 1
            stages[stage.value.decode()] += 1
            try:
                in_child(undisturbed.check_served, number)
            except RuntimeError as error:
                wrong.append(f"kill {done}, in {stage.value.decode()} of night {number}: {error}")
                say(wrong[-1])
        try:
            in_child(undisturbed.check_rerun, number)
        except RuntimeError as error:
            wrong.append(f"after kill {done}: {error}")
            say(wrong[-1])
        if done % 10 == 0:
            say(f"{done} kills, {time.perf_counter() - began:.0f} s")
    sys.stdout.write(
        f"{done} kills over {rerun} nights, {len(wrong)} wrong; undisturbed nights take "
        f"{', '.join(f'{each:.1f}' for each in seconds.values())} s; all {time.perf_counter() - began:.0f} s; "
        f"load at the start {load:.1f}\n"
    )
    sys.stdout.write(f"killed in: {', '.join(f'{name} {count}' for name, count in stages.most_common())}\n")
    sys.exit(bool(wrong))


def outcome(nights: Nights, what: str, answer: Any) -> None:
    """Do one of the things that may happen at once, and say in shared memory how it ended."""
    try:
        if what == "night":
            nights.run()
        elif what == "ingest":
            ingest(nights.pipeline)
        else:
            roll_back(nights.stored, 1)
        answer.value = b"done"
    except StaleWriterError:
        answer.value = b"lost"
    except Exception as error:
        answer.value = f"{type(error).__name__}: {error}".encode()[:400]


def at_once(undisturbed: Undisturbed, whats: tuple[str, ...], pause: float) -> list[str]:
    """How things ended that began one after another."""
    answers = [FORK.Array("c", 400, lock=False) for _ in whats]
    processes = []
    for what, answer in zip(whats, answers, strict=True):
        processes.append(started(outcome, undisturbed.nights, what, answer))
        time.sleep(pause)
    for process in processes:
        process.join()
    return [answer.value.decode(errors="replace") for answer in answers]


def check_rows(undisturbed: Undisturbed, number: int) -> None:
    """Raises UnlikeError where the rows that are served are neither those before a night nor those after it."""
    now = content_served(undisturbed.nights.stored)
    for each in (undisturbed.after[number - 1], undisturbed.after[number]):
        if not {"served", "vectors"} & set(each.differences(now)):
            return
    raise UnlikeError(f"the rows served are neither those before night {number} nor those after it")


def together(folder: Path, times: int) -> None:
    """Two nights at once, and a night, an ingest and a rollback."""
    undisturbed = in_child(Undisturbed, Nights(folder / "together"))
    undisturbed.begin(2)
    start = time.perf_counter()
    in_child(undisturbed.nights.run)
    seconds = time.perf_counter() - start
    ends, wrong = Counter[str](), list[str]()
    for whats in (("night", "night"), ("night", "ingest", "rollback")):
        for pause in np.linspace(0, 1.1 * seconds / (len(whats) - 1), times):
            undisturbed.begin(2)
            ended = at_once(undisturbed, whats, float(pause))
            ends[", ".join(f"{what} {end}" for what, end in zip(whats, ended, strict=True))] += 1
            try:
                if set(ended) - {"done", "lost"} or "done" not in ended:
                    raise UnlikeError(str(ended))
                in_child(check_rows, undisturbed, 2)
                if "rollback" not in whats:
                    in_child(undisturbed.check_rerun, 2)
            except (RuntimeError, UnlikeError) as error:
                wrong.append(f"{' and '.join(whats)}, {pause:.2f} s apart: {error}")
                say(wrong[-1])
    for end, count in ends.most_common():
        sys.stdout.write(f"{count} × {end}\n")
    sys.stdout.write(f"{2 * times} times, {len(wrong)} wrong\n")
    sys.exit(bool(wrong))


def fill(undisturbed: Undisturbed, number: int) -> str:
    """A night without room for it, and what it said."""
    try:
        undisturbed.nights.run()
    except DiskFullError as error:
        undisturbed.check_served(number)
        return str(error)
    undisturbed.check_content(number, "a night that found room")
    return ""


def stored_bytes(folder: Path) -> int:
    """What the files of a folder take on a tmpfs."""
    return sum(-(-path.stat().st_size // 4096) * 4096 for path in folder.rglob("*") if path.is_file())


def full_disk(folder: Path, times: int) -> None:
    """The three nights on a root that gets full."""
    undisturbed = in_child(Undisturbed, Nights(folder / "disk"))
    root = undisturbed.nights.stored.parent
    stages, wrong = Counter[str](), list[str]()
    for number in NUMBERS:
        undisturbed.begin(number)
        before = stored_bytes(root)
        in_child(undisturbed.nights.run)
        # Work in progress is more than what is left in the end.
        room = 2 * (stored_bytes(root) - before)
        for share in np.linspace(0, 1, times // len(NUMBERS), endpoint=False):
            undisturbed.nights.prepare(number)
            mount(root, before + 65536 + int(share * room))
            try:
                undisturbed.nights.restore(f"before-{number}")
                said = in_child(fill, undisturbed, number)
                found = re.search(r"disk of (.*), in (\w+):", said)
                if said and not (found and found[1].startswith(str(root))):
                    raise UnlikeError(f"what is full is not named: {said}")
                stages[found[2] if found else "nowhere, there was room"] += 1
                subprocess.run(["mount", "-o", "remount,size=256m", root], check=True)
                in_child(undisturbed.check_rerun, number)
            except (RuntimeError, UnlikeError, OSError) as error:
                wrong.append(f"night {number}, room for {share:.0%}: {error}")
                say(wrong[-1])
            finally:
                subprocess.run(["umount", root], check=True)
    sys.stdout.write(f"full in: {', '.join(f'{name} {count}' for name, count in stages.most_common())}; ")
    sys.stdout.write(f"{len(wrong)} wrong\n")
    sys.exit(bool(wrong))


def mount(root: Path, size: int) -> None:
    """An empty tmpfs of so many bytes in place of a folder; takes root's rights."""
    shutil.rmtree(root, ignore_errors=True)
    root.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", root], check=True)


def killed_server(folder: Path) -> None:
    """A Prefect server dies amid the training of a night that it shows."""
    nights = Nights(folder / "server")
    nights.prepare(1)
    nights.changes = {"training": {**nights.pipeline.training.model_dump(), "max_steps": 600}}
    undisturbed = in_child(run_to_content, nights)
    shutil.rmtree(nights.stored)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
    ours = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    environment = ours | {"PREFECT_HOME": str(folder / "prefect"), "PREFECT_SERVER_ANALYTICS_ENABLED": "false"}
    api = f"http://127.0.0.1:{port}/api"
    serve = [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", port]
    server = subprocess.Popen(serve, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while not answers(f"{api}/health"):
        time.sleep(0.5)
    program = "from pairloom.flows.start import main; main()"
    run = [sys.executable, "-c", program, "run", "--json", "--file", str(nights.file)]
    night = subprocess.Popen(run, env=environment | {"PREFECT_API_URL": api}, stdout=subprocess.PIPE)
    while not list(nights.stored.glob("runs/*/training/checkpoints/step-*[0-9]")) and night.poll() is None:
        time.sleep(0.01)
    server.kill()
    server.wait()
    said, _ = night.communicate()
    sys.stdout.write(f"the night ended with status {night.returncode}: {said.decode()[:300]}\n")
    again = subprocess.run(run, env=environment, stdout=subprocess.PIPE, check=False)
    wrong = undisturbed.differences(in_child(content, nights.stored))
    sys.stdout.write(f"the rerun without a server ended with status {again.returncode}; other: {', '.join(wrong)}\n")
    sys.exit(bool(wrong))


def run_to_content(nights: Nights) -> Content:
    """A night, and what it leaves."""
    nights.run()
    return content(nights.stored)


def answers(address: str) -> bool:
    """Whether a server is there."""
    with contextlib.suppress(OSError):
        return bool(urllib.request.urlopen(address).status == 200)
    return False


def say(line: str) -> None:
    """Tell those who wait."""
    sys.stderr.write(f"{line}\n")


def main() -> None:
    """Prints what was tried and what was wrong; exits with 1 where anything was."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=("points", "kills", "together", "disk", "server"))
    parser.add_argument("--every", type=int, default=1, help="try every Nth failpoint")
    parser.add_argument("--kills", type=int, default=500)
    parser.add_argument("--times", type=int, default=24, help="offsets of what runs at once; sizes of the disk")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # its threads don't survive a fork
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        import_all(folder / "once")
        if options.part == "points":
            all_points(folder, options.every)
        elif options.part == "kills":
            random_kills(folder, options.kills, options.seed)
        elif options.part == "together":
            together(folder, options.times)
        elif options.part == "disk":
            full_disk(folder, options.times)
        else:
            killed_server(folder)


if __name__ == "__main__":
    main()
