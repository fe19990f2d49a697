"""The folders below one, with what is hidden and where links lead."""

import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from pairloom.storage.reasons import Reason

_SYSTEM = frozenset({"thumbs.db", "ehthumbs.db", "desktop.ini", "__macosx", "@eadir", "$recycle.bin"})


class Listed(NamedTuple):
    """One folder that is read."""

    below: PurePosixPath
    """Its path below the folder that the walk began at."""
    real: Path
    """Where it lies, links resolved."""
    files: list[str]
    """Names of its files, sorted; links that lead nowhere are among them."""


class Skipped(NamedTuple):
    """A file or folder that is not read."""

    below: PurePosixPath
    reason: Reason
    message: str


def walk(base: Path) -> Iterator[Listed | Skipped]:
    """Every folder from `base` down, in order, each before those in it; and what is skipped.

    Hidden and system files are skipped. A linked folder is entered where it leads below `base`, but never one that it
    stands in itself, and one folder through one link only.
    """
    top = base.resolve()
    followed: set[Path] = set()
    # Each with the folders that were come through, as they really lie: a stack, since folders may lie very deep.
    waiting: list[tuple[PurePosixPath, Path, tuple[Path, ...]]] = [(PurePosixPath(), top, ())]
    while waiting:
        below, real, through = waiting.pop()
        try:
            with os.scandir(real) as scanned:
                entries = sorted(scanned, key=lambda entry: entry.name)
        except OSError as error:
            yield Skipped(below, Reason.SOURCE_UNREADABLE, f"the folder can't be read: {error.strerror}")
            continue
        files, inside = [], []
        for entry in entries:
            place = below / entry.name
            if entry.name.startswith(".") or entry.name.lower() in _SYSTEM:
                what = "hidden" if entry.name.startswith(".") else "of an operating system's own"
                yield Skipped(place, Reason.IGNORED_FILE, what)
            elif not _is_folder(entry):
                files.append(entry.name)
            elif not entry.is_symlink():
                inside.append((place, real / entry.name, (*through, real)))
            else:
                target = (real / entry.name).resolve()
                if not target.is_relative_to(top):
                    where = f"links to a folder outside of {base}: name that as a source of its own"
                    yield Skipped(place, Reason.LINKED_FOLDER, where)
                elif any(each.is_relative_to(target) for each in (*through, real)):
                    yield Skipped(place, Reason.FOLDER_REPEATED, "links to a folder that it stands in")
                elif target in followed:
                    yield Skipped(place, Reason.FOLDER_REPEATED, "another link leads to the same folder")
                else:
                    followed.add(target)
                    inside.append((place, target, (*through, real)))
        yield Listed(below, real, files)
        waiting.extend(reversed(inside))


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link that leads in a circle
        return False
