"""Which versions a vector table has and which of them tags hold, read from names: Lance takes long to import."""

import json
import re
from pathlib import Path

TAG = re.compile(r"release-(\d+)(?:-v(\d+))?")
"""Older tags name no version."""

_NEWEST_FIRST = 20
"""Digits of a manifest's name that is counted down from the largest number there is; shorter ones are the version."""
_LARGEST = 2**64 - 1


def stored_versions(table: Path) -> dict[int, Path]:
    """The manifest of each version that is still there."""
    found = {}
    for path in sorted((table / "_versions").glob("*.manifest")):
        if path.stem.isdigit():
            number = int(path.stem)
            found[_LARGEST - number if len(path.stem) == _NEWEST_FIRST else number] = path
    return found


def held_versions(table: Path) -> dict[str, int | None]:
    """The version that each tag holds, by the tag's name; None where neither its name nor its file says so."""
    return {path.stem: _held(path) for path in sorted((table / "_refs" / "tags").glob("*.json"))}


def release_of(tag: str) -> int | None:
    """The number of the release that a tag holds a version for; None where it is a tag of somebody else's."""
    found = TAG.fullmatch(tag)
    return int(found[1]) if found else None


def _held(path: Path) -> int | None:
    named = TAG.fullmatch(path.stem)
    if named and named[2]:
        return int(named[2])
    try:
        return int(json.loads(path.read_bytes())["version"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
