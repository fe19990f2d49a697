"""The tiny nights on another object storage beside those on this machine's disk, and what a root asks of it.

    python -m benchmarks.other_clouds az://pairs/tried

The storage is what the usual environment names (docs/operating.md), an emulator or a cloud's own; the folder must be
empty, and is emptied at the end. What was run so far, and how: cloud.md.
"""

import argparse
import json
import os
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.tiny_nights import Nights, content
from pairloom.storage.files import delete_folder, make_writable, put_if_absent
from pairloom.storage.local_copies import beside
from pairloom.storage.objects import ObjectPath, path_at

WRITERS = 8
LARGE = 20 << 20
"""Bytes of an object that is put in several requests."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("address")
    root = path_at(parser.parse_args().address)
    if not isinstance(root, ObjectPath):
        parser.error(f"{root} is no address of object storage")
    make_writable(root)
    if any(root.rglob("*")):
        parser.error(f"{root} isn't empty")
    with tempfile.TemporaryDirectory() as made, _cleared(root):
        os.environ["PAIRLOOM_CACHE"] = f"{made}/cache"
        verbs(root / "verbs")
        sys.stdout.write(json.dumps(nights(Path(made), root)) + "\n")


@contextmanager
def _cleared(root: ObjectPath) -> Iterator[None]:
    try:
        yield
    finally:
        delete_folder(root)


def verbs(folder: ObjectPath) -> None:
    """What nights ask of a folder, names that need escaping and a race for one of them included."""
    names = ["a/1.json", "a/deep/2 é#%25?.json", "b/.hidden"]
    for name in names:
        (folder / name).put(name.encode())
    assert sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*")) == sorted(names)
    assert {path.name for path in folder.iterdir()} == {"a", "b"}
    assert [(folder / name).read_bytes().decode() for name in names] == names
    assert set(folder.there([*names, "none"])) == set(names)
    with (folder / names[0]).open("rb") as stream:
        stream.seek(-3, os.SEEK_END)
        assert stream.read() == b"son"
    assert (folder / names[0]).read_range(2, 4) == b"1.js"
    assert not (folder / "none").exists()
    won: list[bytes] = []

    def write(content: bytes) -> None:
        if put_if_absent(folder / "record", content):
            won.append(content)

    threads = [threading.Thread(target=write, args=(bytes([number]),)) for number in range(WRITERS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert won == [(folder / "record").read_bytes()]
    large = os.urandom(LARGE)
    (folder / "large").put(large)
    assert (folder / "large").read_bytes() == large
    (folder / "large").replace(folder / "moved")
    assert (folder / "moved").stat().st_size == LARGE
    assert not (folder / "large").is_file()
    (folder / "large").unlink()
    delete_folder(folder)
    assert not any(folder.rglob("*"))


def nights(folder: Path, root: ObjectPath) -> dict[str, object]:
    """Two tiny nights on both: what differs after each, and the seconds of all."""
    differs, seconds = [], {"disk": 0.0, root.parts[0].rstrip(":"): 0.0}
    here, there = Nights(folder), Nights(folder, root)
    left = []
    for where, each in zip(seconds, (here, there), strict=True):
        for number in (1, 2):
            each.prepare(number)
            began = time.monotonic()
            assert each.run().outcome == "released"
            seconds[where] += time.monotonic() - began
            left.append(content(each.stored))
    differs = [one.differences(other) for one, other in zip(left[:2], left[2:], strict=True)]
    assert beside(root) != root
    return {"differs": differs, "seconds": {where: round(each, 1) for where, each in seconds.items()}}


if __name__ == "__main__":
    main()
