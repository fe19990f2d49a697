"""The disk gets really full amid a night: the night says where and in which stage, and goes on once there is room.

    python -m benchmarks.full_disk --times 60

The root of the tiny nights (`benchmarks/tiny_nights.py`) is a tmpfs, which takes root's rights. At a failpoint a file
takes all that is left of it but for some kilobytes; the night goes on till it fails. It must name the folder and the
stage; readers must get the release before the night or the one after it; and run again with room, the night must
leave what an undisturbed one leaves.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

import numpy as np

from benchmarks.tiny_nights import Nights, failing, listening
from benchmarks.undisturbed import NUMBERS, Undisturbed, UnlikeError, import_all, in_child, say
from pairloom.storage.files import DiskFullError


def fill(root: Path, spare: int) -> None:
    """Leave so many bytes on the disk of a folder."""
    with (root / "filler").open("wb") as filler:
        found = os.statvfs(root)
        os.posix_fallocate(filler.fileno(), 0, max(1, found.f_bavail * found.f_bsize - spare))


def without_room(undisturbed: Undisturbed, number: int, at: int, spare: int) -> str:
    """A night whose disk gets full at a failpoint, and its rerun with room; returns the stage that it failed in."""
    undisturbed.begin(number)
    root = undisturbed.nights.stored.parent
    said = ""
    try:
        with listening(failing(at, lambda: fill(root, spare))):
            undisturbed.nights.run()
    except DiskFullError as error:
        said = str(error)
    undisturbed.check_served(number)
    (root / "filler").unlink()
    undisturbed.check_rerun(number)
    found = re.search(r"disk of (.*), in (\w+):", said)
    if said and not (found and found[1].startswith(str(root))):
        raise UnlikeError(f"what is full is not named: {said}")
    return found[2] if found else "nowhere, nothing more was to be written"


def full_disk(folder: Path, times: int) -> None:
    """The three nights on a root that gets full."""
    undisturbed = in_child(Undisturbed, Nights(folder / "disk"))
    root = undisturbed.nights.stored.parent
    mount(root, 2**28)
    stages, wrong = Counter[str](), list[str]()
    try:
        for number in NUMBERS:
            points = undisturbed.points[number]
            for at in np.linspace(0, len(points), times // len(NUMBERS), endpoint=False).astype(int).tolist():
                try:
                    stages[in_child(without_room, undisturbed, number, at, 8192 * (at % 4))] += 1
                except RuntimeError as error:
                    wrong.append(f"night {number}, full at {' '.join(points[at])}: {error}")
                    say(wrong[-1])
    finally:
        subprocess.run(["umount", root], check=True)
    sys.stdout.write(f"full in: {', '.join(f'{name} {count}' for name, count in stages.most_common())}; ")
    sys.stdout.write(f"{len(wrong)} wrong\n")
    sys.exit(bool(wrong))


def mount(root: Path, size: int) -> None:
    """An empty tmpfs of so many bytes in place of a folder."""
    shutil.rmtree(root, ignore_errors=True)
    root.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", root], check=True)


def main() -> None:
    """Prints in which stages nights failed and what was wrong; exits with 1 where anything was."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--times", type=int, default=60)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        import_all(Path(name) / "once")
        full_disk(Path(name), options.times)


if __name__ == "__main__":
    main()
