"""The files that a path or a pattern names."""

from collections.abc import Callable
from pathlib import Path

_WILD = frozenset("*?[")


def listed(path: Path, fits: Callable[[Path], bool]) -> list[Path]:
    """`path` itself, or where it is a pattern the paths that it matches and that `fits`, sorted.

    What exists as it is written is no pattern, and so are folders above one: `[` in a folder's name means itself.
    Hidden files are matched by a pattern that says the dot only. Raises ValueError for a pattern that matches nothing.
    """
    if not is_pattern(path):
        return [path]
    above = next(folder for folder in path.parents if folder.exists() or folder == folder.parent)
    pattern = path.relative_to(above)
    hidden = any(part.startswith(".") for part in pattern.parts)
    found = sorted(
        each
        for each in above.glob(str(pattern))
        if fits(each) and (hidden or not any(part.startswith(".") for part in each.relative_to(above).parts))
    )
    if not found:
        raise ValueError(f"nothing matches {path}; correct `path`")
    return found


def is_pattern(path: Path) -> bool:
    """Whether `path` holds `*`, `?` or `[` and nothing of that very name exists."""
    return not _WILD.isdisjoint(str(path)) and any(
        not _WILD.isdisjoint(each.name) and not each.exists() for each in (path, *path.parents)
    )
