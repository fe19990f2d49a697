"""Tiny nights that fail or are killed everywhere: nothing is lost, doubled or mixed, and the rerun is as undisturbed.

    python -m benchmarks.faults points
    python -m benchmarks.faults kills --kills 500
    python -m benchmarks.faults together --times 40

Three nights over sixteen pictures are played (`benchmarks/tiny_nights.py`): a first one, one with rows that are new,
changed, gone and broken, and one that trains again. *points*: each failpoint of each night in turn raises an OSError,
as a full disk does, and then kills the process. *kills*: SIGKILL comes at a seeded random moment of a night, again
and again until the night has ended, and then the next night begins; the three nights are played over and over.
*together*: two processes run the second night, one a little later than the other, from not at all to the length of a
night; and so do a night, an ingest and a rollback.

After each fault what readers get must be the release before or the one after, whole. Once the night was run again, all
that is stored and served must be that of an undisturbed run: items, rejections, rows and vectors served (within 1e-6),
pairs, model, metrics, number and reason of the release; a further run must find nothing to do.

Nights run in children that are forked from a process which has everything imported.
"""

import argparse
import errno
import os
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from benchmarks.tiny_nights import Nights, failing, listening
from benchmarks.undisturbed import (
    FORK,
    NUMBERS,
    Undisturbed,
    UnlikeError,
    content_served,
    import_all,
    in_child,
    say,
    started,
)
from pairloom.storage.files import DiskFullError
from pairloom.storage.records import StaleWriterError
from pairloom.storage.releases import roll_back
from pairloom.tasks.ingest import ingest
from pairloom.tasks.stage import standing


def fail() -> NoReturn:
    """What a full disk does."""
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def die() -> NoReturn:
    """What `kill -9` does."""
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError("this process is dead")


def raise_at(undisturbed: Undisturbed, number: int, at: int) -> None:
    """A night whose `at`th failpoint raises, and its rerun, in this process."""
    undisturbed.begin(number)
    try:
        with listening(failing(at, fail)):
            undisturbed.nights.run()
    except DiskFullError as error:
        if str(undisturbed.nights.stored.parent) not in str(error):
            raise UnlikeError(f"what is full is not named: {error}") from error
    # What follows the release, like clean-up, may fail without a word; what it leaves goes the next time.
    undisturbed.check_served(number)
    undisturbed.check_rerun(number)


def die_at(nights: Nights, at: int) -> None:
    """A night whose `at`th failpoint kills the process."""
    with listening(failing(at, die)):
        nights.run()
    sys.exit("the failpoint was not reached")


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
    undisturbed.nights.grace_hours = 24
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


def main() -> None:
    """Prints what was tried and what was wrong; exits with 1 where anything was."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=("points", "kills", "together"))
    parser.add_argument("--every", type=int, default=1, help="try every Nth failpoint")
    parser.add_argument("--kills", type=int, default=500)
    parser.add_argument("--times", type=int, default=24, help="how many offsets of what runs at once")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        import_all(folder / "once")
        if options.part == "points":
            all_points(folder, options.every)
        elif options.part == "kills":
            random_kills(folder, options.kills, options.seed)
        else:
            together(folder, options.times)


if __name__ == "__main__":
    main()
