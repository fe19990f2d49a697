"""The files that one path of a source stands for."""

import glob
import os
from collections.abc import Iterator, Sequence
from pathlib import Path


def shard_files(path: Path, suffixes: Sequence[str]) -> list[Path]:
    """`path` itself; the files in it or below whose names end so; or those that the pattern `path` matches. Sorted.

    Hidden files and folders are left out, and linked folders not entered.
    """
    if path.is_file():
        return [path]
    # Path.glob takes no absolute patterns.
    found = _below(path) if path.is_dir() else map(Path, glob.iglob(str(path), recursive=True))  # noqa: PTH207
    return sorted(each for each in found if each.name.lower().endswith(tuple(suffixes)) and each.is_file())


def folder_of(path: Path) -> Path:
    """The folder that such a path starts from: itself, the file's, or the one before a pattern's first wildcard."""
    if path.exists():
        return path if path.is_dir() else path.parent
    while glob.has_magic(path.name) or glob.has_magic(str(path.parent)):
        path = path.parent
    return path if path.is_dir() else path.parent


def shown(file: Path, path: Path) -> str:
    """A file's name as people know it: below the source's folder."""
    folder = folder_of(path)
    name = file.relative_to(folder) if file.is_relative_to(folder) else file
    # A file's name may hold bytes that are not UTF-8.
    return name.as_posix().encode(errors="backslashreplace").decode()


def _below(folder: Path) -> Iterator[Path]:
    for at, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        yield from (Path(at, name) for name in names if not name.startswith("."))
