"""The files that a table's versions are read from, where the newest of them can't be."""

import logging
from pathlib import Path
from typing import Any

from pairloom.storage.objects import lance_options
from pairloom.storage.table.versions import stored_versions

logger = logging.getLogger(__name__)

_LAST = 2**64 - 1
"""Lance names a version's file by what is left to this number, so that the newest comes first in a listing."""


def manifest_path(table: Path, version: int) -> Path:
    """The file that a version of the table at `table` is read from."""
    return table / "_versions" / f"{_LAST - version:020}.manifest"


def open_version(table: Path, version: int | None = None) -> Any:
    """The Lance dataset at `table`, at `version` or the latest. ValueError where there is none, or it is damaged."""
    # Half a second to import, with pandas: nights without news, and readers of records, open no table.
    import lance

    try:
        return lance.dataset(str(table), version=version, storage_options=lance_options(table))
    except (ValueError, OSError, RuntimeError) as error:
        named = f"version {version}" if version else "the latest version"
        raise ValueError(
            f"{named} of {table} can't be opened; the next night begins with the one that is released: "
            f"{str(error).splitlines()[0]}"
        ) from error


def put_unreadable_aside(table: Path, *, beyond: int = 0) -> int:
    """Rename the files of the newest versions (`beyond` one) that can't be opened: in their way none is written.

    Returns the highest number that was put aside, or 0.
    """
    import lance

    highest = 0
    for version, path in sorted(stored_versions(table).items(), reverse=True):
        if version <= beyond:
            break
        try:
            lance.dataset(str(table), version=version, storage_options=lance_options(table))
            break
        except (ValueError, OSError, RuntimeError) as error:
            path.rename(path.with_suffix(".damaged"))
            reason = str(error).splitlines()[0]
            logger.warning("version %d of %s can't be opened, and is put aside: %s", version, table.name, reason)
            highest = max(highest, version)
    return highest
