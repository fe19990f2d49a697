"""How old and how large what is stored is: nothing is collected that may still be written or read."""

import contextlib
import os
import time
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from pairloom.storage.objects import ObjectPath
from pairloom.storage.records import RecordLog

_HOUR = 3600.0


@dataclass(frozen=True)
class Weight:
    """A file, or a folder with all that is in it."""

    files: int
    bytes: int
    changed: float
    """When anything in it last did, in seconds since the epoch."""


class Grace:
    """What is younger than some hours, by the clock of now."""

    def __init__(self, hours: float) -> None:
        self._since = time.time() - hours * _HOUR

    def covers(self, changed: float) -> bool:
        """Whether what changed then is too young. What the clock says is yet to come is young as well."""
        return changed > self._since

    def recent(self, log: RecordLog[Any]) -> set[int]:
        """Numbers of the records that were the newest ones until lately: of those whose next one is young."""
        there = log.paths()
        return {number for number, later in pairwise(sorted(there)) if self.covers(_changed(there[later]))}


def weigh(path: Path) -> Weight:
    """What there is at `path`. What goes away meanwhile weighs nothing."""
    inside = _files(path) if path.is_dir() else [path]
    files, size, changed = 0, 0, _changed(path)
    for each in inside:
        with contextlib.suppress(FileNotFoundError):
            found = each.lstat()
            files, size, changed = files + 1, size + found.st_size, max(changed, found.st_mtime)
    return Weight(files, size, changed)


def _files(folder: Path) -> Iterable[Path]:
    if isinstance(folder, ObjectPath):
        return folder.rglob("*")
    return (Path(below, name) for below, _, names in os.walk(folder) for name in names)


def _changed(path: Path) -> float:
    try:
        return path.lstat().st_mtime
    except FileNotFoundError:
        return 0.0
