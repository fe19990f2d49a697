"""Files that are either whole or absent: digests, fsync, write-aside-and-rename, put-if-absent."""

import contextlib
import errno
import hashlib
import itertools
import os
import tempfile
from collections.abc import Iterator, Mapping
from itertools import takewhile
from pathlib import Path
from typing import Self

from pydantic import BaseModel

from pairloom.storage.failpoints import hit

DAMAGED = "damaged"
"""Folder below a pipeline's, of what was moved out of the way: `<DAMAGED>/<path>`."""
FULL = (errno.ENOSPC, errno.EDQUOT)


class DamagedError(RuntimeError):
    """Something stored is missing or no longer what was written."""


class DiskFullError(RuntimeError):
    """There is no room left on the disk."""


class FileDigest(BaseModel, frozen=True, extra="forbid"):
    """What a record remembers of a file it names."""

    sha256: str
    bytes: int

    @classmethod
    def of(cls, path: Path) -> Self:
        with path.open("rb") as stream:
            return cls(sha256=hashlib.file_digest(stream, "sha256").hexdigest(), bytes=path.stat().st_size)


FileDigests = dict[str, FileDigest]
"""Digests by path relative to the pipeline's folder, with forward slashes."""


def digest_files(folder: Path, paths: Iterator[Path], known: Mapping[str, FileDigest]) -> FileDigests:
    """Digests of `paths` below `folder`, reusing those `known` already: immutable files are read once in their life."""
    names = sorted(path.relative_to(folder).as_posix() for path in paths)
    return {name: known.get(name) or FileDigest.of(folder / name) for name in names}


def damage(folder: Path, files: Mapping[str, FileDigest], *, contents: bool = False) -> list[str]:
    """What is wrong with `files` below `folder`: missing, of another size, or (with `contents`) of other bytes."""
    found = []
    for name, expected in files.items():
        path = folder / name
        if not path.is_file():
            found.append(f"{name} is missing")
        elif path.stat().st_size != expected.bytes:
            found.append(f"{name} has {path.stat().st_size} bytes, recorded were {expected.bytes}")
        elif contents and FileDigest.of(path) != expected:
            found.append(f"{name} has other contents than recorded")
    return found


def sync(path: Path) -> None:
    """Force a file, or a folder's list of entries, to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def make_folder(folder: Path) -> None:
    """Create a folder and those above it, so that they outlast a power cut once what is written into them does."""
    made = list(takewhile(lambda each: not each.exists(), (folder, *folder.parents)))
    folder.mkdir(parents=True, exist_ok=True)
    for each in made:
        sync(each.parent)


@contextlib.contextmanager
def written_aside(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success it is fsynced and renamed over `path`, on failure removed."""
    hit("write.before", path)
    make_folder(path.parent)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    os.close(handle)
    aside = Path(name)
    try:
        yield aside
        aside.chmod(0o644)
        sync(aside)
        hit("rename.before", path)
        aside.replace(path)
        sync(path.parent)
        hit("rename.after", path)
    finally:
        aside.unlink(missing_ok=True)


def put_if_absent(path: Path, content: bytes) -> bool:
    """Create `path` with `content` in one step; False, changing nothing, if it exists."""
    make_folder(path.parent)
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.") as aside:
        aside.write(content)
        aside.flush()
        os.fsync(aside.fileno())
        Path(aside.name).chmod(0o644)
        hit("record.before", path)
        try:
            os.link(aside.name, path)
        except FileExistsError:
            return False
    sync(path.parent)
    hit("record.after", path)
    return True


def set_aside(folder: Path, name: str) -> Path:
    """Move the file `name` below `folder` out of the way, over nothing; returns where it is now."""
    place = folder / DAMAGED / name
    place.parent.mkdir(parents=True, exist_ok=True)
    for number in itertools.count(1):
        if not place.exists():
            break
        place = (folder / DAMAGED / name).with_name(f"{Path(name).name}.{number}")
    (folder / name).replace(place)
    for changed in (place.parent, (folder / name).parent):
        sync(changed)
    return place


@contextlib.contextmanager
def full_disk_named(folder: Path, work: str) -> Iterator[None]:
    """Raise DiskFullError, naming the folder and the work, instead of what a library says of a full disk inside."""
    try:
        yield
    except (OSError, RuntimeError) as error:
        number = error.errno if isinstance(error, OSError) else None
        # Lance has no numbers, but the system's words.
        if number not in FULL and not any(os.strerror(each) in str(error) for each in FULL):
            raise
        # What is full may be the folder for temporary files.
        named = isinstance(error, OSError) and error.filename
        place = Path(os.fsdecode(named)).parent if named else folder
        raise DiskFullError(
            f"no room left on the disk of {place}, in {work}: make some, then run again, which goes on from here"
        ) from error


def make_writable(folder: Path) -> None:
    """Create `folder` if need be. Raises ValueError where nothing can be written there."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".probe."):
            pass
    except OSError as error:
        raise ValueError(f"can't write below {folder}: {error.strerror}; choose another root with --root") from error
