"""What of a pipeline on object storage is on this machine: its work in progress, and copies of its models."""

import os
import shutil
from pathlib import Path

from pairloom.storage.digest import digest
from pairloom.storage.objects import ObjectPath


def beside(path: Path) -> Path:
    """Where this machine has what belongs to a file or folder: there itself, or in the cache for one on object storage.

    The cache is `$PAIRLOOM_CACHE`, or `pairloom` in the user's folder of caches; it can be deleted while nothing runs.
    """
    if not isinstance(path, ObjectPath):
        return path
    usual = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "pairloom"
    cache = Path(os.environ.get("PAIRLOOM_CACHE") or usual).expanduser().resolve()
    # Buckets of servers of one's own have the names of others.
    servers = {name: os.environ[name] for name in ("AWS_ENDPOINT_URL", "AWS_ENDPOINT") if os.environ.get(name)}
    scheme, bucket, *names = path.parts
    return cache.joinpath(scheme.rstrip(":"), f"{bucket}-{digest(servers)[:8]}" if servers else bucket, *names)


def local_copy(folder: Path) -> Path:
    """A folder of files as one of this machine: itself, or a copy that is brought up to date now.

    Raises FileNotFoundError where there is nothing in it.
    """
    if not isinstance(folder, ObjectPath):
        return folder
    copy = beside(folder)
    wanted = {copy / each.relative_to(folder): each for each in folder.rglob("*")}
    if not wanted:
        raise FileNotFoundError(f"there is nothing in {folder}")
    for stale in [path for path in copy.rglob("*") if path.is_file() and path not in wanted]:
        stale.unlink(missing_ok=True)
    for path, stored in wanted.items():
        changed = _changed(stored)
        if not path.is_file() or (path.stat().st_size, path.stat().st_mtime_ns) != (stored.stat().st_size, changed):
            path.parent.mkdir(parents=True, exist_ok=True)
            aside = path.with_name(f".{path.name}.{os.getpid()}")
            aside.write_bytes(stored.read_bytes())
            os.utime(aside, ns=(changed, changed))
            aside.replace(path)
    return copy


def upload(built: Path, folder: ObjectPath) -> None:
    """Put all files of a folder of this machine below `folder`, and make it the copy of that.

    They go one by one: who reads meanwhile finds some of them missing.
    """
    for path in sorted(path for path in built.rglob("*") if path.is_file()):
        (folder / path.relative_to(built)).put(path)
    copy = beside(folder)
    shutil.rmtree(copy, ignore_errors=True)
    copy.parent.mkdir(parents=True, exist_ok=True)
    built.replace(copy)
    for each in folder.rglob("*"):
        changed = _changed(each)
        os.utime(copy / each.relative_to(folder), ns=(changed, changed))


def _changed(stored: Path) -> int:
    """When an object was changed, in nanoseconds, those below a second by its contents: storage tells whole seconds."""
    status = stored.stat()
    return status.st_mtime_ns // 10**9 * 10**9 + status.st_ino % 10**9
