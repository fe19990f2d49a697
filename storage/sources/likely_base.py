"""Where images may lie that aren't where the rows say: a hint for whoever set `base`."""

import os
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path, PurePath

_FOLDERS = 200
"""How many folders are looked into at most."""


def likely_base(folder: Path, image_paths: Sequence[str]) -> Path | None:
    """A folder above, in or beside `folder` that holds most of `image_paths`; None where there is none."""
    # Strangers' text: a path that leaves its folder tells nothing.
    relative = [
        path
        for path in image_paths
        if path and "\0" not in path and ".." not in PurePath(path).parts and not PurePath(path).is_absolute()
    ]
    if not relative:
        return None
    for candidate in islice(_near(folder), _FOLDERS):
        if 2 * sum(os.path.lexists(candidate / path) for path in relative) > len(relative):
            return candidate
    return None


def _near(folder: Path) -> Iterator[Path]:
    yield from (folder.parent, folder.parent.parent)
    for place in (folder, folder.parent):
        try:
            yield from sorted(each for each in place.iterdir() if each.is_dir() and each != folder)
        except OSError:
            continue
