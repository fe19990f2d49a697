"""How long commands take where there is little to do: wall time as a ratio to `python -c "import torch"`.

Of `pairloom deploy --check`, which needs Prefect, it is a ratio to `python -c "import prefect"`.

`python -m benchmarks.startup [--rounds N]` releases the grocery pipeline after 20 training steps into a temporary root,
then runs `import torch` and every command in turn, round by round, each in a process of its own with compiled
bytecode. A ratio is the median over the rounds of the quotient within a round: what else the machine does weighs on
both sides. "Without an export" asks a copy of the release whose exported towers are gone.
"""

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.bundle import DATA

FILE = Path(__file__).parent / "pipelines.yaml"
IMAGE = DATA / "grocery/images/Asparagus/Asparagus_004.jpg"
CLI = [sys.executable, "-c", "import sys; from pairloom.flows.cli import main; sys.argv[0] = 'pairloom'; main()"]
TORCH = [sys.executable, "-c", "import torch"]
PREFECT = [sys.executable, "-c", "import prefect"]
CHECK = "`pairloom deploy --check`, to `import prefect`"
UNGATED = ["--set", "gate.min={}", "--set", "gate.first=none"]
SHORT = ["--set", "training.max_steps=20", "--set", "training.max_minutes=null", *UNGATED]

COMMANDS: dict[str, tuple[float, list[str]]] = {
    "`--help`": (0.5, ["--help"]),
    "`pairloom status`": (0.5, ["status"]),
    "`pairloom releases`": (0.5, ["releases"]),
    "`pairloom show 1`": (0.5, ["show", "1"]),
    "`pairloom sql`, without a text": (0.5, ["sql", "SELECT count(*) FROM items"]),
    "`pairloom run`, nothing new": (1.0, ["run", *SHORT]),
    CHECK: (1.5, ["deploy", "--check"]),
    "`pairloom sql`, with a text": (1.0, ["sql", "SELECT item_id, score FROM search('an apple')"]),
    "`pairloom search TEXT`": (1.0, ["search", "an apple"]),
    "`pairloom search --image`": (1.0, ["search", "--image", str(IMAGE)]),
    "`pairloom search TEXT`, without an export": (4.0, ["search", "an apple"]),
    "`pairloom search --image`, without an export": (4.0, ["search", "--image", str(IMAGE)]),
    "`pairloom search`, a misspelt `--where`": (0.7, ["search", "an apple", "--where", "subgroup ="]),
    "`pairloom run`, an unknown key": (0.7, ["run", "--set", "training.max_stepz=1"]),
}
"""By what is run: the ratio that is wanted at most, and the arguments."""


def seconds(command: list[str]) -> tuple[float, float]:
    """Wall seconds of a command, and processor seconds of it and its children."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    before, started = os.times(), time.perf_counter()
    subprocess.run(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False)
    wall, after = time.perf_counter() - started, os.times()
    busy = after.children_user + after.children_system - before.children_user - before.children_system
    return wall, busy


def main() -> None:
    """Print a row a command: median ratios of wall and of processor time, and the wanted one."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    with tempfile.TemporaryDirectory() as root:
        with_export, without = (
            ["-p", "grocery", "--file", str(FILE), "--root", f"{root}/{name}"] for name in ("with", "without")
        )
        subprocess.run([*CLI, "run", *SHORT, *with_export], check=True, stdout=subprocess.DEVNULL)
        shutil.copytree(f"{root}/with", f"{root}/without")
        for graph in Path(root, "without").glob("grocery/models/*/*.onnx"):
            graph.unlink()
        ratios: dict[str, list[tuple[float, float]]] = {name: [] for name in COMMANDS}
        walls = []
        for number in range(-1, rounds):  # one round before the first compiles
            load, torch, prefect = os.getloadavg()[0], seconds(TORCH), seconds(PREFECT)
            for name, (_, arguments) in COMMANDS.items():
                options = without if name.endswith("without an export") else with_export
                own = [*CLI, *arguments, *(options if arguments != ["--help"] else [])]
                (own_wall, own_busy), (wall, busy) = seconds(own), prefect if name == CHECK else torch
                if number >= 0:
                    ratios[name].append((own_wall / wall, own_busy / busy))
            if number >= 0:
                walls.append((*torch, *prefect, load))
    medians = [statistics.median(each) for each in zip(*walls, strict=True)]
    sys.stdout.write(
        "`import torch`: {:.2f} s of wall time, {:.2f} s of processor time; `import prefect`: {:.2f} s, {:.2f} s; "
        "load {:.1f}\n\n".format(*medians)
    )
    sys.stdout.write("| command | wall | processor | wanted |\n| --- | ---: | ---: | ---: |\n")
    for name, (wanted, _) in COMMANDS.items():
        own_wall, own_busy = (statistics.median(each) for each in zip(*ratios[name], strict=True))
        sys.stdout.write(f"| {name} | {own_wall:.2f} | {own_busy:.2f} | {wanted} |\n")


if __name__ == "__main__":
    main()
