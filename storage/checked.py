"""Which files were read through and found to be what records say: saves reading them again, and can be deleted.

    checked.json    by file: its digest, what the file system said of it then, and when that was

Nothing but a change of the file itself, or a week, makes it be read again. What changes under a file without its file
system knowing, as on a failing disk, is therefore found within a week.
"""

import json
import logging
import os
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pairloom.storage.files import DamagedError, FileDigest, damage, damage_of, digests, statuses, written_aside
from pairloom.storage.local_copies import beside, local_copy
from pairloom.storage.objects import ObjectPath
from pairloom.storage.parquet import require_whole

logger = logging.getLogger(__name__)

SECONDS = 7 * 86_400
"""As long as a file that was read through is taken for whole while it isn't touched."""
_SEALED = FileDigest(sha256="its own", bytes=0)
"""Stands for the digest that a Parquet file carries."""


@dataclass(frozen=True)
class _Seen:
    sha256: str
    """As the record has it."""
    file: tuple[int, ...]
    """Inode, size, and when content and status changed last, in nanoseconds."""
    at: float


class CheckedFiles:
    """What was read through of the pipeline in `folder`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        # A folder on object storage and its copy here are two.
        self._path = beside(folder) / ("checked.json" if folder == beside(folder) else "checked-there.json")
        self._seen = _read(self._path)
        self._news = False

    def read_through(self, name: str, expected: FileDigest) -> str:
        """What is wrong with one file, read now; empty where it is whole."""
        self._drop(name)
        before = statuses(self.folder, [name])
        wrong = damage_of(self.folder, before, {name: expected}, contents=True)
        if wrong:
            return wrong[0].removeprefix(f"{name} ")
        self._keep(name, expected.sha256, before)
        return ""

    def wrong(self, files: Mapping[str, FileDigest]) -> list[str]:
        """What is wrong with some files, of which those are read that aren't known to be whole."""
        there = statuses(self.folder, files)
        found = damage_of(self.folder, there, files)
        if found:
            return found
        unknown = [name for name, expected in files.items() if not self._whole(name, expected, there)]
        for name, read in digests(self.folder, unknown).items():
            self._drop(name)
            if read == files[name]:
                self._keep(name, read.sha256, there)
            else:
                found.append(f"{name} has other contents than recorded")
        self.save()
        return found

    def whole(self, name: str) -> bool:
        """Whether a Parquet file that no record names is what was written; it is read unless that is known."""
        there = statuses(self.folder, [name])
        if not self._whole(name, _SEALED, there):
            self._drop(name)
            try:
                require_whole(self.folder / name)
            except DamagedError as error:
                logger.warning("%s", error)
                return False
            self._keep(name, _SEALED.sha256, there)
        return True

    def forget(self, name: str) -> None:
        """Have a file read again when it is asked for."""
        self._drop(name)
        self.save()

    def save(self) -> None:
        """Remember it, where that can be written: others may read what they can't write."""
        if not self._news:
            return
        document = {name: [each.sha256, *each.file, each.at] for name, each in self._seen.items() if _fresh(each)}
        try:
            with written_aside(self._path) as aside:
                aside.write_text(json.dumps(document), encoding="utf-8")
        except OSError as error:
            logger.debug("what was read through is not remembered: %s", error)
        self._news = False

    def _keep(self, name: str, sha256: str, there: Mapping[str, os.stat_result]) -> None:
        self._seen[name] = _Seen(sha256, _told(there.get(name)), time.time())
        self._news = True

    def _drop(self, name: str) -> None:
        self._news |= self._seen.pop(name, None) is not None

    def _whole(self, name: str, expected: FileDigest, there: Mapping[str, os.stat_result]) -> bool:
        seen = self._seen.get(name)
        return (
            seen is not None and _fresh(seen) and seen.sha256 == expected.sha256 and seen.file == _told(there.get(name))
        )


def damage_now(folder: Path, files: Mapping[str, FileDigest]) -> list[str]:
    """What is wrong with some files, each read through; but for objects that were, and have the tag still that they had
    then: the storage itself answers for their contents.
    """
    return CheckedFiles(folder).wrong(files) if isinstance(folder, ObjectPath) else damage(folder, files, contents=True)


def whole_copy(folder: Path, name: str, files: Mapping[str, FileDigest]) -> Path:
    """The folder `name` of a pipeline's as one of this machine: itself, or a copy whose `files` are what they must be.

    Raises DamagedError where they aren't so on object storage either.
    """
    copy = local_copy(folder / name)
    if copy != folder / name and CheckedFiles(beside(folder)).wrong(files):
        shutil.rmtree(copy)
        copy = local_copy(folder / name)
        if wrong := CheckedFiles(beside(folder)).wrong(files):
            raise DamagedError(f"the copy of {folder / name} in {copy} is damaged: {'; '.join(wrong[:3])}")
    return copy


def _fresh(seen: _Seen) -> bool:
    return 0 <= time.time() - seen.at < SECONDS


def _told(status: os.stat_result | None) -> tuple[int, ...]:
    return (status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns) if status else ()


def _read(path: Path) -> dict[str, _Seen]:
    try:
        document = json.loads(path.read_bytes())
        return {name: _Seen(each[0], tuple(each[1:-1]), float(each[-1])) for name, each in document.items()}
    except (OSError, ValueError, TypeError, AttributeError, IndexError, KeyError):
        return {}
