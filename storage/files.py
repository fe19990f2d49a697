"""Files that are either whole or absent: digests, fsync, write-aside-and-rename, put-if-absent."""

import contextlib
import errno
import hashlib
import itertools
import os
import shutil
import stat
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import takewhile
from pathlib import Path, PurePath
from typing import Self
from uuid import uuid4

from pydantic import BaseModel

from pairloom.storage.failpoints import hit
from pairloom.storage.object_client import ObjectStorageError
from pairloom.storage.objects import ObjectPath

DAMAGED = "damaged"
"""Folder below a pipeline's, of what was moved out of the way: `<DAMAGED>/<path>`."""
_AT_ONCE = 8
"""Objects that are read side by side: most of the time the storage is waited for."""
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
            return cls(sha256=hashlib.file_digest(stream, "sha256").hexdigest(), bytes=stream.tell())


def content_digest(content: bytes) -> FileDigest:
    """What a record remembers of a file with this content."""
    return FileDigest(sha256=hashlib.sha256(content).hexdigest(), bytes=len(content))


FileDigests = dict[str, FileDigest]
"""Digests by path relative to the pipeline's folder, with forward slashes."""


def digest_files(folder: Path, paths: Iterator[Path], known: Mapping[str, FileDigest]) -> FileDigests:
    """Digests of `paths` below `folder`, reusing those `known` already: immutable files are read once in their life."""
    names = sorted(path.relative_to(folder).as_posix() for path in paths)
    fresh = digests(folder, [name for name in names if name not in known])
    return {name: known.get(name) or fresh[name] for name in names}


def digests(folder: Path, names: Sequence[str]) -> FileDigests:
    """Of some files below `folder`, read now; several objects at once."""
    if not isinstance(folder, ObjectPath) or len(names) < 2:
        return {name: FileDigest.of(folder / name) for name in names}
    with ThreadPoolExecutor(_AT_ONCE) as threads:
        return dict(zip(names, threads.map(lambda name: FileDigest.of(folder / name), names), strict=True))


def damage(folder: Path, files: Mapping[str, FileDigest], *, contents: bool = False) -> list[str]:
    """What is wrong with `files` below `folder`: missing, of another size, or (with `contents`) of other bytes."""
    return damage_of(folder, statuses(folder, files), files, contents=contents)


def damage_of(
    folder: Path, found: Mapping[str, os.stat_result], files: Mapping[str, FileDigest], *, contents: bool = False
) -> list[str]:
    """The same, of files that were `found` to have these statuses."""
    wrong = {}
    for name, expected in files.items():
        if name not in found:
            wrong[name] = f"{name} is missing"
        elif (size := found[name].st_size) != expected.bytes:
            wrong[name] = f"{name} has {size} bytes, recorded were {expected.bytes}"
    if contents:
        for name, read in digests(folder, [name for name in files if name not in wrong]).items():
            if read != files[name]:
                wrong[name] = f"{name} has other contents than recorded"
    return [*wrong.values()]


def statuses(folder: Path, names: Iterable[str]) -> dict[str, os.stat_result]:
    """What the file system says of those of some files below `folder` that are there."""
    if isinstance(folder, ObjectPath):
        return {name: path.stat() for name, path in folder.there(names).items()}
    found = {}
    for name in names:
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            status = (folder / name).stat()
            if stat.S_ISREG(status.st_mode):
                found[name] = status
    return found


def read_unchanging(path: Path) -> bytes:
    """The contents of a file that is never written again; of an object they may be those that were read before."""
    return path.read_unless_same() if isinstance(path, ObjectPath) else path.read_bytes()


def sync(path: Path) -> None:
    """Force a file, or a folder's list of entries, to the disk; on object storage that is done."""
    if isinstance(path, ObjectPath):
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def make_folder(folder: Path) -> None:
    """Create a folder and those above it, so that they outlast a power cut once what is written into them does.

    On object storage none need be.
    """
    if isinstance(folder, ObjectPath):
        return
    made = list(takewhile(lambda each: not each.exists(), (folder, *folder.parents)))
    folder.mkdir(parents=True, exist_ok=True)
    for each in made:
        sync(each.parent)


@contextlib.contextmanager
def written_aside(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success it is fsynced and renamed over `path`, on failure removed.

    For an object it is a temporary file of this machine, which is put in its place.
    """
    if isinstance(path, ObjectPath):
        with _uploaded(path) as aside:
            yield aside
        return
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


@contextlib.contextmanager
def _uploaded(path: ObjectPath) -> Iterator[Path]:
    hit("write.before", path)
    with tempfile.TemporaryDirectory(prefix="pairloom-") as folder:
        aside = Path(folder, path.name)
        aside.touch()
        yield aside
        hit("rename.before", path)
        path.put(aside)
        hit("rename.after", path)


def put_if_absent(path: Path, content: bytes) -> bool:
    """Create `path` with `content` in one step; False, changing nothing, if it exists."""
    if isinstance(path, ObjectPath):
        hit("record.before", path)
        made = path.put_if_absent(content)
        hit("record.after", path)
        return made
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
        place = (folder / DAMAGED / name).with_name(f"{PurePath(name).name}.{number}")
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
    if isinstance(folder, ObjectPath):
        _probe(folder)
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".probe."):
            pass
    except OSError as error:
        raise ValueError(f"can't write below {folder}: {error.strerror}; choose another root with --root") from error


def _probe(folder: ObjectPath) -> None:
    """Raises ValueError where objects can't be listed, put and deleted below `folder`."""
    probe = folder / f".probe.{uuid4().hex[:8]}"
    try:
        next(folder.iterdir(), None)
        probe.put(b"")
        probe.unlink()
    except FileNotFoundError as error:
        raise ValueError(f"{folder}: there is no bucket of this name: create it, or choose another root") from error
    except ObjectStorageError as error:
        raise ValueError(str(error)) from None


def copy_in(source: Path, aside: Path) -> None:
    """Copy a file, or an object, to a file of this machine."""
    with source.open("rb") as stream, aside.open("wb") as copy:
        shutil.copyfileobj(stream, copy)


def delete_folder(folder: Path) -> None:
    """Delete a folder and all that is in it."""
    if isinstance(folder, ObjectPath):
        folder.delete_below()
    else:
        shutil.rmtree(folder)


def make_young(folder: Path) -> None:
    """Have a folder be as if it had been written now."""
    if isinstance(folder, ObjectPath):
        min(folder.rglob("*"), key=lambda path: path.stat().st_size).touch()
    else:
        os.utime(folder)
