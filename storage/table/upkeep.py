"""What holds the versions of a vector table, and what is deleted of it."""

import logging
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from pairloom.storage.failpoints import hit
from pairloom.storage.files import sync
from pairloom.storage.objects import ObjectPath
from pairloom.storage.table.manifests import open_version
from pairloom.storage.table.versions import TAG

logger = logging.getLogger(__name__)

WRITTEN = ("data", "_deletions", "_indices", "_transactions")
"""Folders of a table that writers put files into before a version names them."""


class TableUpkeep:
    """The versions of one table: held by tags, and cleaned up."""

    def __init__(self, path: Path, version: int | None = None, *, opened: Any = None) -> None:
        """Of the table at `path`, at `version` or the latest, or as it is `opened`. ValueError where it is damaged."""
        self.path = path
        self._dataset: Any = opened or open_version(path, version)

    def tag(self, release: int, version: int) -> None:
        """Hold `version` for `release`, so that clean-up can't take it.

        Of two runs that want to be the same release, each holds its own version: the loser can't let go the winner's.
        """
        name = f"release-{release:06d}-v{version}"
        if name not in self._tags():
            hit("tag.before", self.path)
            try:
                self._dataset.tags.create(name, version)
            except ValueError:
                # On object storage the answer may have been lost: then it is there.
                if self._tagged(name) != version:
                    raise
            # Lance doesn't: after a power cut clean-up would take what a record names.
            tags = self.path / "_refs" / "tags"
            for path in (tags / f"{name}.json", tags, tags.parent, self.path):
                sync(path)
            hit("tag.after", self.path)

    def untag(self, names: Collection[str]) -> int:
        """Let go of the versions that these tags hold; returns how many of them there were."""
        found = [name for name in self._tags() if name in names]
        for name in found:
            hit("untag.before", self.path)
            self._dataset.tags.delete(name)
            hit("untag.after", self.path)
        return len(found)

    def clean_up(self, versions: Sequence[int]) -> None:
        """Delete these versions and the files that they alone need; not the latest, nor those that a tag holds."""
        self._dataset.checkout_latest()
        if versions:
            hit("clean-up.before", self.path)
            self._dataset.cleanup_old_versions(versions=list(versions), error_if_tagged_old_versions=False)
            hit("clean-up.after", self.path)

    def files_of_none_but(self, versions: Collection[int]) -> list[Path]:
        """Every file that some of these versions need and no other one does: what `clean_up` deletes of them."""
        rows = self._tracked()
        kept = {row["path"] for row in rows if row["version"] not in versions}
        return [self.path / name for name in sorted({row["path"] for row in rows} - kept)]

    def orphans(self) -> list[Path]:
        """Files that no version needs: of a writer that was killed before it committed them, or has not yet."""
        there = [path for kind in WRITTEN for path in sorted((self.path / kind).rglob("*")) if path.is_file()]
        needed = {row["path"] for row in self._tracked()}
        return [path for path in there if path.relative_to(self.path).as_posix() not in needed]

    def _tracked(self) -> list[dict[str, Any]]:
        """Each file of each version."""
        self._dataset.checkout_latest()
        rows: list[dict[str, Any]] = self._dataset.tracked_files().read_all().select(["version", "path"]).to_pylist()
        return rows

    def _tags(self) -> list[str]:
        """Names of all tags, those of releases made anew from their names where they don't hold the version named.

        Lance doesn't clean up where one of them can't be read. Object storage answers for the contents of its own.
        """
        tags = self._dataset.tags
        names = sorted(path.stem for path in (self.path / "_refs" / "tags").glob("*.json"))
        for name in names if not isinstance(self.path, ObjectPath) else ():
            named = TAG.fullmatch(name)
            if named and named[2] and self._tagged(name) != int(named[2]):
                logger.warning("tag %s of %s is damaged and made anew", name, self.path.name)
                tags.delete(name)
                tags.create(name, int(named[2]))
        return names

    def _tagged(self, name: str) -> int | None:
        """The version that a tag holds; None where it can't be read."""
        try:
            return int(self._dataset.tags.get_version(name))
        except (RuntimeError, OSError, ValueError):
            return None
