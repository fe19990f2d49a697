"""What no record names: it is made again where it is gone, and checks itself."""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from pairloom.storage.classes import ClassStore
from pairloom.storage.corpus import Part
from pairloom.storage.embeddings import EmbeddingStore
from pairloom.storage.features import FeatureStore, TextFeatureStore
from pairloom.storage.files import DamagedError
from pairloom.storage.pairs import PairStore
from pairloom.storage.parquet import require_whole
from pairloom.storage.part_files import PartFiles
from pairloom.storage.releases import Release
from pairloom.storage.table.versions import TAG
from pairloom.storage.verification.findings import Fault, Kind
from pairloom.storage.verification.kept import Kept

PAIRS = ("pairs", "distances")
PARQUET: dict[str, Kind] = {
    "neighbours/*/*.parquet": "neighbours",
    "known/*.parquet": "known rows",
    "words/*.parquet": "word vectors",
    "classes/vectors/*.parquet": "class vectors",
}
_TAG_KEYS = {"branch", "version", "createdAt", "updatedAt", "manifestSize", "metadata"}


@dataclass(frozen=True)
class Cache:
    """A file or folder that no record names."""

    path: Path
    kind: Kind
    check: Callable[[], object]
    """Raises DamagedError where it is not whole."""
    releases: tuple[int, ...] = ()
    snapshots: tuple[int, ...] = ()

    def fault(self, folder: Path) -> Fault | None:
        """What is wrong with it."""
        try:
            self.check()
        except DamagedError as error:
            if not self.path.exists():
                return None  # a night has put another in its place since it was listed
            name = self.path.relative_to(folder).as_posix()
            wrong = str(error).replace(f"{self.path}/", "").replace(f"{self.path} ", "")
            return Fault(name, self.kind, wrong, self.releases, self.snapshots)
        return None


def caches(folder: Path, kept: Kept) -> Iterator[Cache]:
    """All of them that are there."""
    yield from _embeddings(folder, kept)
    yield from _features(folder, kept)
    for name in PAIRS:
        store = PairStore(folder, name)
        for path in sorted((folder / name).glob("*/audit.json")):
            yield Cache(path.parent, "pairs", partial(store.require_whole, path.parent.name))
    for pattern, kind in PARQUET.items():
        for path in sorted(folder.glob(pattern)):
            yield Cache(path, kind, partial(require_whole, path))
    for path, check in ClassStore(folder).records():
        yield Cache(path, "class examples", check)


def tag_faults(folder: Path, kept: Kept) -> Iterator[Fault]:
    """Tags that don't hold the version which the release of their name needs, or don't exist."""
    held = {(release.table, release.number): release for release in kept.releases}
    present = set()
    for path in sorted(folder.glob("vectors/*.lance/_refs/tags/*.json")):
        named = TAG.fullmatch(path.stem)
        if not named:
            continue  # a person's own
        table = path.parents[2].relative_to(folder).as_posix()
        release = held.get((table, int(named[1])))
        wrong = _tag_wrong(path, int(named[2]) if named[2] else None, release)
        name = path.relative_to(folder).as_posix()
        if wrong:
            yield Fault(name, "tag", wrong, (release.number,) if release else ())
        if release and (named[2] is None or int(named[2]) == release.table_version):
            present.add((table, release.number))
    for (table, number), release in held.items():
        if (table, number) not in present:
            name = f"{table}/_refs/tags/release-{number:06d}-v{release.table_version}.json"
            yield Fault(name, "tag", "is missing: clean-up may take the version", (number,))


def _embeddings(folder: Path, kept: Kept) -> Iterator[Cache]:
    for model in sorted(folder.glob("embeddings/*")):
        store = EmbeddingStore(folder, model.name)
        own = [release for release in kept.releases if model.name in (release.model_id, release.measured)]
        for path, parts in _of_parts(store, kept):
            rows = next(iter(parts.values())).rows if parts else None
            releases = tuple(release.number for release in own if release.snapshot in parts)
            yield Cache(path, "embeddings part", partial(store.require_whole, path, rows), releases, tuple(parts))


def _features(folder: Path, kept: Kept) -> Iterator[Cache]:
    for each in (FeatureStore, TextFeatureStore):
        for trunk in sorted(folder.glob(f"{each.kind}/*")):
            store = each(folder, trunk.name)
            for path, parts in _of_parts(store, kept):
                rows = next(iter(parts.values())).rows if parts else None
                yield Cache(path, "features part", partial(store.require_whole, path, rows), (), tuple(parts))


def _of_parts(store: PartFiles, kept: Kept) -> Iterator[tuple[Path, dict[int, Part]]]:
    """Each file of a store, and the part that it is of by the numbers of the kept snapshots that have it."""
    for path in sorted(store.folder.glob("part-*.parquet")):
        yield (
            path,
            {
                number: part
                for number, snapshot in kept.snapshots.items()
                for part in snapshot.parts
                if path.stem == f"part-{part.digest}"
            },
        )


def _tag_wrong(path: Path, version: int | None, release: Release | None) -> str:
    """What is wrong with a tag of that version."""
    try:
        tag: dict[str, Any] = json.loads(path.read_bytes())
        held, size = tag["version"], tag["manifestSize"]
    except FileNotFoundError:
        return ""  # let go a moment ago
    except (ValueError, KeyError, TypeError):
        return "can't be read"
    wanted = version or (release.table_version if release else held)
    if held != wanted:
        return f"holds version {held}, not {wanted}"
    other = not tag.keys() <= _TAG_KEYS or tag.get("branch") is not None or tag.get("metadata")
    # None is ever moved.
    if other or tag.get("createdAt") != tag.get("updatedAt", tag.get("createdAt")):
        return "says what no tag of a release says"
    if release:
        manifests = [file.bytes for name, file in release.files.items() if "/_versions/" in name]
        if manifests != [size]:
            return f"says its manifest has {size} bytes"
    return ""
