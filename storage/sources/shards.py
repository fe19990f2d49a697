"""The files that one path of a source stands for."""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from pairloom.storage.escaping import utf8


def shard_files(path: Path, suffixes: Sequence[str]) -> list[Path]:
    """`path` itself, or the files in that folder or below whose names end so, sorted.

    Hidden files and folders are left out, and linked folders not entered.
    """
    if path.is_file():
        return [path]
    return sorted(each for each in _below(path) if each.name.lower().endswith(tuple(suffixes)) and each.is_file())


def shown(file: Path, path: Path) -> str:
    """A file's name as people know it: below the source's folder."""
    name = file.relative_to(path) if path.is_dir() else Path(file.name)
    return utf8(name.as_posix())


def _below(folder: Path) -> Iterator[Path]:
    for at, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        yield from (Path(at, name) for name in names if not name.startswith("."))
