"""Rows of a folder of images with their texts beside them."""

import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from pairloom.storage.sources.raw_row import MAX_LINE, RawRow, Values, malformed, not_decoded

FOLDER_COLUMNS = ("image", "text", "folder", "name")
"""Columns of a folder's rows: path below it, lines of the sidecar, the image's folder, its name without suffix."""

IMAGE_SUFFIXES = frozenset(
    {".apng", ".avif", ".bmp", ".gif", ".ico", ".jp2", ".jpeg", ".jpg", ".mpo"}
    | {".pgm", ".png", ".ppm", ".tga", ".tif", ".tiff", ".webp"}
)
"""Files in a folder with another suffix are no images, and no rows."""


def folder_rows(path: Path) -> Iterator[RawRow]:
    """One row per image below `path`, sorted by path; texts are the lines of the `.txt` file of the same stem.

    Hidden files and folders are left out, and linked folders not entered.
    """
    number = 0
    unreadable: list[OSError] = []
    for at, folders, names in os.walk(path, onerror=unreadable.append):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            image = Path(at, name)
            if name.startswith(".") or image.suffix.lower() not in IMAGE_SUFFIXES:
                continue
            number += 1
            below = image.relative_to(path).as_posix()
            try:
                texts = _sidecar_lines(image.with_suffix(".txt"), path)
            except ValueError as error:
                yield malformed(number, below, str(error), path)
                continue
            problem = not_decoded(below)
            if problem:
                yield malformed(number, below, problem, path)
            else:
                yield RawRow(number, "\n".join([below, *texts]), (below, texts), _values, None, path)
    for place, refusal in enumerate(unreadable, start=number + 1):
        yield malformed(place, str(refusal.filename), f"{refusal.filename} cannot be read: {refusal.strerror}", path)


def _values(found: tuple[str, list[str]]) -> Values:
    below, texts = PurePosixPath(found[0]), found[1]
    folder = "" if below.parent == PurePosixPath() else str(below.parent)
    return {"image": str(below), "text": texts, "folder": folder, "name": below.stem}


def _sidecar_lines(path: Path, base: Path) -> list[str]:
    if not path.is_file():
        return []
    if not path.resolve().is_relative_to(base.resolve()):
        raise ValueError(f"{path.name} is a link to a file outside {base}")
    try:
        with path.open("rb") as stream:
            content = stream.read(MAX_LINE + 1)
    except OSError as error:
        raise ValueError(f"{path.name} cannot be read: {error.strerror}") from error
    if len(content) > MAX_LINE:
        raise ValueError(f"{path.name} is longer than {MAX_LINE} bytes")
    try:
        return content.decode("utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"{path.name} is not UTF-8 at byte {error.start}") from error
