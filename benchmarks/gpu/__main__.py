"""What a GPU makes of training, embedding and mining, in nine minutes at most, unattended.

    python -m benchmarks.gpu > gpu.jsonl
    python -m benchmarks.gpu --parts steps,mining --sizes tiny

Needs the checkout and its wheels (`pip install -e '.[benchmarks]'`), no network and no data. Each part is a process of
its own with a time of its own, after which it is killed: what it has said stays said, and the others are not concerned.
Each line is a JSON document, written as soon as it is known. The last one says what went wrong, and the exit status is
1 where anything did.
"""

import argparse
import contextlib
import importlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence

BUDGETS = {"equality": 50, "steps": 180, "large_batch": 60, "embedding": 60, "mining": 90, "resume": 55}
"""Seconds of each part, its start included: 495 together."""
GRACE = 5
"""A part that looks at the clock ends by itself before it is killed."""


def run_apart(name: str, command: Sequence[str], budget: float) -> str:
    """Passes on what a process says, line by line; what went wrong with it, empty where nothing did."""
    # What a compiler has started must end with it.
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True)
    assert process.stdout is not None, "it was asked for"
    late = threading.Event()

    def end() -> None:
        late.set()
        _kill(process)

    timer = threading.Timer(budget, end)
    timer.start()
    said, wrong = 0, 0
    try:
        for line in process.stdout:
            said += 1
            wrong += '"error":' in line
            sys.stdout.write(line)
            sys.stdout.flush()
        status = process.wait()
    finally:
        timer.cancel()
        _kill(process)
    if late.is_set():
        return f"{name}: killed after {budget} s, {said} lines"
    if status:
        return f"{name}: ended with {status}, {said} lines"
    return f"{name}: {wrong} of {said} lines tell of an error" if wrong else ""


def _kill(process: "subprocess.Popen[str]") -> None:
    """With all that it has started."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def run_here(name: str, sizes: str, budget: float) -> None:
    """One part in this process."""
    from benchmarks.gpu.measures import SIZES, Part

    part = Part(name, SIZES[sizes], time.monotonic() + budget, lambda line: print(line, flush=True))  # noqa: T201
    importlib.import_module(f"benchmarks.gpu.{name}").run(part)


def about() -> dict[str, object]:
    """The machine and what is installed."""
    import open_clip
    import torch

    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {"part": "about", "gpu": gpu, "torch": torch.__version__, "open_clip": open_clip.__version__}


def main() -> None:
    """Run the parts one after another."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", default=",".join(BUDGETS), help="names, with commas between them")
    parser.add_argument("--sizes", default="full", choices=("full", "tiny"))
    parser.add_argument("--here", action="store_true", help="in this process, where nothing is killed")
    options = parser.parse_args()
    names = options.parts.split(",")
    if unknown := sorted(set(names) - set(BUDGETS)):
        parser.error(f"no part is called {unknown[0]!r}; there are {', '.join(BUDGETS)}")
    if options.here:
        for name in names:
            run_here(name, options.sizes, BUDGETS[name])
        return
    print(json.dumps(about()), flush=True)  # noqa: T201
    began, wrong = time.monotonic(), []
    for name in names:
        command = [sys.executable, "-m", "benchmarks.gpu", "--here", "--parts", name, "--sizes", options.sizes]
        wrong.append(run_apart(name, command, BUDGETS[name] + GRACE))
    told = [each for each in wrong if each]
    print(json.dumps({"part": "end", "seconds": time.monotonic() - began, "wrong": told}), flush=True)  # noqa: T201
    sys.exit(bool(told))


if __name__ == "__main__":
    main()
