"""The power fails amid a night: whatever the disk then holds, readers get one release whole, and the rerun ends.

    python -m benchmarks.power_loss --states 240

Each of the three tiny nights (`benchmarks/tiny_nights.py`) runs under `strace`, which notes what it writes, names and
syncs below its root. A state of the disk is what may be there after a power cut at a seeded random moment: what was
synced before is there, a file's content by an fsync of the file, a name by one of its folder; of all else that was
done until then some is there, in any combination: none, all, or a random part of it. So a file may have its name and
no content, or content with holes. Each state is made as real folders and opened by a reader, which must get the
release before the night or the one after it, whole; then the night is run again, and must leave what an undisturbed
one leaves.
"""

import argparse
import itertools
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np

from benchmarks.tiny_nights import Nights
from benchmarks.undisturbed import NUMBERS, Undisturbed, import_all, in_child, say

CALLS = (
    "open,openat,creat,write,pwrite64,writev,pwritev,pwritev2,truncate,ftruncate,rename,renameat,renameat2,link,linkat,"
    "unlink,unlinkat,mkdir,mkdirat,rmdir,fsync,fdatasync,lseek,copy_file_range,sendfile,mmap"
)
PROGRAM = """if True:
    import sys
    from pathlib import Path
    from benchmarks.tiny_nights import Nights
    nights = Nights(Path(sys.argv[1]))
    nights.prepare(int(sys.argv[2]))
    nights.run()"""
SHARES = (0.0, 0.5, 0.9, 1.0)
"""Of what was not synced, how much is there."""

Kind = Literal["file", "folder"]


@dataclass
class Node:
    """A file or folder, whatever its names."""

    kind: Kind
    names: dict[str, "Node"] = field(default_factory=dict)
    """Of a folder: what is in it."""
    content: bytearray = field(default_factory=bytearray)


@dataclass(frozen=True)
class Step:
    """One change of the disk. `synced` is what has to be synced for it to last."""

    synced: Node
    number: int
    names: tuple[tuple[Node, str, Node | None], ...] = ()
    """Folder, name, and what it names from then on."""
    write: tuple[int, bytes] | None = None
    """Where, and what."""
    size: int | None = None


@dataclass(frozen=True)
class Sync:
    """All earlier steps of one file or folder last from here on."""

    node: Node


class Disk:
    """What a trace says was done to the files below a folder, which held what it holds before the trace is read."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.top = Node("folder")
        self.steps: list[Step | Sync] = []
        self.open: dict[str, tuple[Node, int]] = {}
        """By descriptor: the file, and where in it the next write goes."""

    def read(self, trace: Path) -> None:
        """Take in a whole trace."""
        begun: dict[str, str] = {}
        with trace.open(encoding="ascii") as lines:
            for line in lines:
                process, _, said = line.strip().partition(" ")
                said = said.strip()
                if said.endswith("<unfinished ...>"):
                    begun[process] = said.removesuffix("<unfinished ...>")
                elif resumed := re.match(r"<\.\.\. \w+ resumed>(.*)", said):
                    self._call(begun.pop(process) + resumed[1])
                elif "(" in said:
                    self._call(said)

    def _call(self, said: str) -> None:
        call = re.match(r"(\w+)\((.*)\)\s+= (\d+)(?:<[^>]*>)?", said)
        if not call:
            return  # it failed
        name, arguments, answer = call.groups()
        texts = [_text(each) for each in re.findall(r'"((?:\\x[0-9a-f]{2})*)"', arguments)]
        handles = re.findall(r"(AT_FDCWD|\d+)<((?:\\x[0-9a-f]{2})*)>", arguments)
        bases = [os.fsdecode(_text(path)) for _, path in handles]
        match name:
            case "open" | "openat" | "creat":
                self._opened(self._paths(texts, bases)[0], arguments, answer)
            case "write":
                node, place = self.open.get(handles[0][0], (None, 0)) if handles else (None, 0)
                if node and bases[0].startswith(f"{self.root}/"):
                    self._write(node, place, texts[0][: int(answer)])
                    self.open[handles[0][0]] = (node, place + int(answer))
            case "pwrite64":
                node, _ = self.open.get(handles[0][0], (None, 0))
                if node and bases[0].startswith(f"{self.root}/"):
                    self._write(node, int(arguments.rpartition(",")[2]), texts[0][: int(answer)])
            case "lseek":
                if handles and handles[0][0] in self.open:
                    self.open[handles[0][0]] = (self.open[handles[0][0]][0], int(answer))
            case "ftruncate":
                if node := self.open.get(handles[0][0], (None, 0))[0]:
                    self._resize(node, int(arguments.rpartition(",")[2]))
            case "mkdir" | "mkdirat":
                self._name(self._paths(texts, bases)[0], Node("folder"))
            case "rename" | "renameat" | "renameat2":
                self._rename(*self._paths(texts, bases))
            case "link" | "linkat":
                old, new = self._paths(texts, bases)
                if node := self._find(old):
                    self._name(new, node)
            case "unlink" | "unlinkat" | "rmdir":
                self._name(self._paths(texts, bases)[0], None)
            case "fsync" | "fdatasync":
                if node := self._find(Path(bases[0])):
                    self.steps.append(Sync(node))
            case "mmap":
                shared = "MAP_SHARED" in arguments and "PROT_WRITE" in arguments
                assert not (shared and bases and bases[0].startswith(f"{self.root}/")), "a memory map is written"
            case _:
                paths = [*self._paths(texts, bases), *map(Path, bases)]
                assert not any(path.is_relative_to(self.root) for path in paths), f"{name} is not understood"

    def _opened(self, path: Path, flags: str, handle: str) -> None:
        self.open.pop(handle, None)
        if not path.is_relative_to(self.root):
            return
        node = self._find(path)
        if node is None:
            if "O_CREAT" not in flags:
                return
            node = Node("file")
            self._name(path, node)
        elif "O_TRUNC" in flags and node.content:
            self._resize(node, 0)
        self.open[handle] = (node, len(node.content) if "O_APPEND" in flags else 0)

    def _paths(self, texts: list[bytes], bases: list[str]) -> list[Path]:
        # Names are relative to the folder of a descriptor before them, where there is one.
        places = bases if len(bases) == len(texts) else [bases[0] if bases else "/"] * len(texts)
        return [Path(base) / os.fsdecode(text) for base, text in zip(places, texts, strict=True)]

    def _find(self, path: Path) -> Node | None:
        if not path.is_relative_to(self.root):
            return None
        node: Node | None = self.top
        for name in path.relative_to(self.root).parts:
            node = node.names.get(name) if node else None
        return node

    def _name(self, path: Path, node: Node | None) -> None:
        folder = self._find(path.parent)
        if folder is not None and path != self.root:
            self._step(Step(folder, len(self.steps), names=((folder, path.name, node),)))

    def _rename(self, old: Path, new: Path) -> None:
        node, source, goal = self._find(old), self._find(old.parent), self._find(new.parent)
        if node and source and goal:
            names = ((source, old.name, None), (goal, new.name, node))
            self._step(Step(goal, len(self.steps), names=names))

    def _write(self, node: Node, place: int, content: bytes) -> None:
        self._step(Step(node, len(self.steps), write=(place, content)))

    def _resize(self, node: Node, size: int) -> None:
        self._step(Step(node, len(self.steps), size=size))

    def _step(self, step: Step) -> None:
        self.steps.append(step)
        apply(step, {})

    def state(self, until: int, share: float, random: np.random.Generator) -> tuple[Node, int]:
        """What may be there after a cut before step `until`, and how many steps are lost."""
        synced: dict[int, int] = {}
        for place, step in enumerate(self.steps[:until]):
            if isinstance(step, Sync):
                synced[id(step.node)] = place
        copies, lost = {id(self.top): Node("folder")}, 0
        for step in self.steps[:until]:
            if isinstance(step, Sync):
                continue
            if step.number < synced.get(id(step.synced), -1) or random.random() < share:
                apply(step, copies)
            else:
                lost += 1
        return copies[id(self.top)], lost


def apply(step: Step, copies: dict[int, Node] | None) -> None:
    """Change the disk, or with `copies` (by the `id` of what they are of, made where missing) another one."""

    def own(node: Node) -> Node:
        if not copies:
            return node
        if id(node) not in copies:
            copies[id(node)] = Node(node.kind)
        return copies[id(node)]

    for folder, name, node in step.names:
        if node is None:
            own(folder).names.pop(name, None)
        else:
            own(folder).names[name] = own(node)
    if step.write:
        place, content = step.write
        held = own(step.synced).content
        held.extend(bytes(max(0, place + len(content) - len(held))))
        held[place : place + len(content)] = content
    if step.size is not None:
        held = own(step.synced).content
        del held[step.size :]
        held.extend(bytes(step.size - len(held)))


def _text(escaped: str) -> bytes:
    return bytes.fromhex(escaped.replace("\\x", ""))


def written_out(node: Node, path: Path) -> None:
    """Make a state as real files and folders."""
    if node.kind == "file":
        path.write_bytes(node.content)
        return
    path.mkdir(exist_ok=True)
    for name, each in node.names.items():
        written_out(each, path / name)


def existing(path: Path, disk: Disk) -> None:
    """Note what lies below a folder, all of it synced."""
    for folder, folders, files in os.walk(path):
        for name in folders:
            disk._name(Path(folder) / name, Node("folder"))
        for name in files:
            node = Node("file")
            disk._name(Path(folder) / name, node)
            disk._write(node, 0, (Path(folder) / name).read_bytes())
            disk.steps.append(Sync(node))
        if found := disk._find(Path(folder)):
            disk.steps.append(Sync(found))


def traced(nights: Nights, number: int) -> tuple[Disk, int]:
    """One night under `strace`, and where it begins."""
    root = nights.stored.parent
    root.mkdir(exist_ok=True)
    disk = Disk(root)
    existing(root, disk)
    begin, trace = len(disk.steps), nights.folder / "trace"
    # Strings whole and in hexadecimal, descriptors with their paths.
    options = ["-f", "-y", "-xx", "-s", str(2**24), "--seccomp-bpf", "-e", f"trace={CALLS}", "-o", str(trace)]
    command = [sys.executable, "-c", PROGRAM, str(nights.folder), str(number)]
    subprocess.run(["strace", *options, *command], check=True, stderr=subprocess.DEVNULL)
    disk.read(trace)
    trace.unlink()
    return disk, begin


def moments(begin: int, end: int, count: int, random: np.random.Generator) -> Iterator[tuple[int, float]]:
    """Where the power fails, and how much of what is not synced is there."""
    places = np.linspace(begin + 1, end, count).astype(int)
    shares = itertools.cycle(SHARES)
    for place in places:
        yield int(min(end, place + random.integers(0, max(1, (end - begin) // count)))), next(shares)


def main() -> None:
    """Prints how many states there were and which were wrong; exits with 1 where any was."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--states", type=int, default=240)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    random, load, began = np.random.default_rng(options.seed), os.getloadavg()[0], time.perf_counter()
    wrong, losses, counted = list[str](), list[int](), Counter[str]()
    with tempfile.TemporaryDirectory() as name:
        import_all(Path(name) / "once")
        undisturbed = in_child(Undisturbed, Nights(Path(name) / "nights"))
        nights = undisturbed.nights
        for number in NUMBERS:
            undisturbed.begin(number)
            disk, begin = traced(nights, number)
            syncs = sum(isinstance(step, Sync) for step in disk.steps[begin:])
            say(f"night {number}: {len(disk.steps) - begin - syncs} steps, {syncs} syncs")
            for until, share in moments(begin, len(disk.steps), options.states // len(NUMBERS), random):
                state, lost = disk.state(until, share, random)
                losses.append(lost)
                shutil.rmtree(nights.stored.parent)
                written_out(state, nights.stored.parent)
                try:
                    in_child(undisturbed.check_served, number)
                    in_child(undisturbed.check_rerun, number)
                    counted["right"] += 1
                except RuntimeError as error:
                    wrong.append(f"night {number}, step {until - begin}, {share:.0%} of the rest there: {error}")
                    say(wrong[-1])
    sys.stdout.write(
        f"{len(losses)} states, in the middle {int(np.median(losses))} and at most {max(losses)} steps lost; "
        f"{len(wrong)} wrong; {time.perf_counter() - began:.0f} s, load at the start {load:.1f}\n"
    )
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
