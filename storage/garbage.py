"""Garbage below one pipeline's folder: what no kept release, snapshot or run names, and how it goes.

Records go before what they name, and folders are renamed before they are emptied, so that a kill at any moment leaves
nothing half; what it leaves over goes the next time.
"""

import contextlib
import logging
import re
import shutil
from collections.abc import Callable, Collection, Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from pydantic import BaseModel

from pairloom.storage.failpoints import hit
from pairloom.storage.files import delete_folder, sync
from pairloom.storage.grace import Grace, Weight, weigh
from pairloom.storage.kept import folders, kept_releases, kept_snapshots, kept_work
from pairloom.storage.local_copies import beside
from pairloom.storage.modelstore import ModelStore
from pairloom.storage.objects import ObjectPath, listed_whole
from pairloom.storage.records import RecordLog
from pairloom.storage.releases import release_log
from pairloom.storage.retention import RetentionConfig
from pairloom.storage.runs import Run
from pairloom.storage.snapshots import SnapshotLog
from pairloom.storage.table.upkeep import TableUpkeep
from pairloom.storage.table.versions import held_versions, stored_versions

logger = logging.getLogger(__name__)

RELEASES, SNAPSHOTS = "release records", "snapshot records"
TAGS, VERSIONS = "tags", "table versions"
GONE = ".gone"
TEMPORARY = re.compile(r"\..+\.(?:[a-z0-9_]{8}|gone)")
"""Names of what is written aside, and of what is on its way out."""
OURS = re.compile(r"[0-9a-f]{16}(?:\.lance|\.parquet)?")
"""Names by digest. What is called otherwise, like a table that somebody has added to the models', is not ours."""

Progress = Callable[[int, int], None]


class Garbage(BaseModel, frozen=True):
    """One thing that nothing needs any more."""

    kind: str
    path: str
    """Relative to the pipeline's folder."""
    why: str
    files: int
    bytes: int
    versions: tuple[int, ...] = ()
    """Those of a vector table, where not all of it is meant."""


class Found(BaseModel, frozen=True):
    """What can go, and why other things, for all that is known, can't."""

    garbage: tuple[Garbage, ...]
    kept: tuple[str, ...]
    """Sentences: what could not be read, so that all that it may have named stays."""


def find_garbage(folder: Path, retention: RetentionConfig, current: Collection[str]) -> Found:
    """What `collect_garbage` would delete. `current` names the runs that a night goes on with.

    Raises DamagedError where there are releases and none of them is whole.
    """
    with listed_whole(folder):
        return _found(folder, retention, current)


def _found(folder: Path, retention: RetentionConfig, current: Collection[str]) -> Found:
    grace = Grace(retention.grace_hours)
    releases = kept_releases(folder, retention, grace)
    snapshots = kept_snapshots(folder, releases.releases, grace)
    work = kept_work(folder, current, releases, grace)
    search, kept = _Search(folder, grace), [*releases.unknown, *snapshots.unknown, *work.unknown]
    found = [*search.records(RELEASES, release_log(folder), lambda number: number >= releases.first)]
    if not releases.unknown:
        found += search.records(SNAPSHOTS, SnapshotLog(folder), lambda number: number in snapshots.records)
    # Before what may be renamed to the name of one of them.
    found += search.temporaries()
    found += search.runs(work.runs)
    if not (releases.unknown or snapshots.unknown):
        found += search.corpus(snapshots.files)
    if not (releases.unknown or work.unknown):
        released = {model for each in releases.releases for model in (each.model_id, each.measured)}
        models = released | work.models | search.young_models()
        found += search.made_by_others(models)
        found += search.mined(work.pairs)
        if not snapshots.unknown:
            found += search.embeddings(models, snapshots.embedded)
            found += search.features(ModelStore(folder).trunks(models), snapshots.embedded)
        for table in folders(folder / "vectors"):
            if table.stem in models:
                tags = [tag for tag in held_versions(table) if not releases.holds(tag, table.stem)]
                try:
                    found += search.versions(table, tags)
                except (ValueError, OSError, RuntimeError) as error:
                    kept.append(f"{table.name} is not cleaned up: {str(error).splitlines()[0]}")
    whole = {each.path for each in found if not each.versions}
    found = [each for each in found if whole.isdisjoint(map(str, PurePosixPath(each.path).parents))]
    return Found(garbage=tuple(found), kept=tuple(kept))


def collect_garbage(
    folder: Path, retention: RetentionConfig, current: Collection[str], progress: Progress | None = None
) -> Found:
    """Delete what nothing needs; returns what went. What can't be deleted stays, with a warning, for the next time.

    Raises DamagedError, and deletes nothing, where there are releases and none of them is whole.
    """
    found, gone = find_garbage(folder, retention, current), []
    if any(each.kind == RELEASES for each in found.garbage):
        gone = _delete_records(folder, found, RELEASES)
        # A rollback to one of them may be under way: it has left its tag by now, or finds the record gone.
        found = find_garbage(folder, retention, current)
    gone += _delete_records(folder, found, SNAPSHOTS)
    rest = [each for each in found.garbage if each.kind not in (RELEASES, SNAPSHOTS)]
    for number, each in enumerate(rest, 1):
        if _deleted(folder, each):
            gone.append(each)
        if progress:
            progress(number, len(rest))
    return Found(garbage=tuple(gone), kept=found.kept)


class _Search:
    """Looks for what is old enough and not among what is kept."""

    def __init__(self, folder: Path, grace: Grace) -> None:
        self._folder, self._grace = folder, grace
        self._kinds = {path.name for path in folder.glob("*")}
        """Folders that there are: what comes later is young."""

    def records(self, kind: str, log: RecordLog[Any], is_kept: Callable[[int], bool]) -> Iterator[Garbage]:
        """Records but for those kept and the newest: no number is given twice."""
        numbers = sorted(log.numbers())
        paths = (log.path(number) for number in numbers[:-1] if not is_kept(number))
        return self._old(paths, kind, "no kept release, and not the newest state, needs it")

    def runs(self, kept: Collection[str]) -> Iterator[Garbage]:
        """Runs that no night goes on with, and of the others what only their training read."""
        runs = self._ours("runs")
        yield from self._old((path for path in runs if path.name not in kept), "runs", "no night goes on with it")
        for path in runs:
            if path.name in kept:
                for scratch in Run(self._folder, path.name).scratch():
                    yield self._garbage(scratch, "pixels and checkpoints", "its training has ended")

    def temporaries(self) -> Iterator[Garbage]:
        """What killed runs have left aside."""
        if isinstance(self._folder, ObjectPath):
            return  # nothing is written aside there
        for kind in [self._folder, *folders(self._folder)]:
            inside = [] if kind in (self._folder, self._folder / "vectors") else folders(kind)
            for folder in [kind, *inside]:
                paths = [path for path in sorted(folder.glob(".*")) if TEMPORARY.fullmatch(path.name)]
                for path in paths:
                    if path.suffix == GONE or not self._grace.covers(weigh(path).changed):
                        yield self._garbage(path, "temporary files", "a run that was killed has left it")

    def corpus(self, kept: Collection[str]) -> Iterator[Garbage]:
        """Files that no kept snapshot names."""
        for kind, pattern in (
            ("manifests", "snapshot-*.json"),
            ("corpus", "part-*.parquet"),
            ("quarantine", "part-*.parquet"),
        ):
            there = sorted((self._folder / kind).glob(pattern)) if kind in self._kinds else []
            paths = (path for path in there if f"{kind}/{path.name}" not in kept)
            yield from self._old(paths, kind, "no kept snapshot names it")

    def young_models(self) -> set[str]:
        """Models that a night may be about to name."""
        return {path.name for path in self._ours("models") if self._grace.covers(weigh(path).changed)}

    def made_by_others(self, models: Collection[str]) -> Iterator[Garbage]:
        """Models that are not among those kept, and what they have made but for embeddings."""
        for kind in ("models", "vectors", "neighbours", "classes/vectors"):
            paths = (path for path in self._ours(kind) if path.stem not in models)
            yield from self._old(paths, kind, "no kept release or run names its model")

    def embeddings(self, models: Collection[str], parts: Collection[str]) -> Iterator[Garbage]:
        """Those by other models, and those of parts that no kept release and not the newest state has."""
        yield from self._by_part("embeddings", models, "no kept release or run names its model", parts)

    def features(self, trunks: Collection[str] | None, parts: Collection[str]) -> Iterator[Garbage]:
        """Those by trunks of no kept model, and those of parts likewise; all stay where a model's trunk is unknown."""
        if trunks is not None:
            for kind in ("features", "text_features"):
                yield from self._by_part(kind, trunks, "no kept model has its trunk", parts)

    def _by_part(self, kind: str, makers: Collection[str], why: str, parts: Collection[str]) -> Iterator[Garbage]:
        names = {f"part-{part}.parquet" for part in parts}
        for folder in self._ours(kind):
            if folder.name not in makers:
                yield from self._old([folder], kind, why)
                continue
            paths = (path for path in sorted(folder.glob("part-*.parquet")) if path.name not in names)
            yield from self._old(paths, kind, "no kept release, and not the newest state, has its part")

    def mined(self, kept: Collection[str]) -> Iterator[Garbage]:
        """Pairs and distances but for those of runs and the newest ones, which people look at and nights go on from."""
        for kind in ("pairs", "distances"):
            found = self._ours(kind)
            newest = max(found, key=lambda path: weigh(path).changed, default=None)
            paths = (path for path in found if path.name not in kept and path != newest)
            yield from self._old(paths, kind, "newer ones are there, and no run goes on with it")

    def versions(self, table: Path, tags: Collection[str]) -> Iterator[Garbage]:
        """Tags, and the versions of a table that nothing but they hold."""
        for tag in tags:
            yield self._garbage(table / "_refs" / "tags" / f"{tag}.json", TAGS, "no kept release needs what it holds")
        stored = stored_versions(table)
        held = {version for tag, version in held_versions(table).items() if tag not in tags}
        if None in held:
            return  # a damaged tag of somebody else's: it may hold any
        free = {*stored} - held - {max(stored, default=0)}
        free = {version for version in free if not self._grace.covers(weigh(stored[version]).changed)}
        if not (free or tags):
            return  # nor is Lance imported
        opened = TableUpkeep(table)
        yield from self._old(opened.orphans(), "table files", "a run that was killed has left it")
        if free:
            weights = [weigh(path) for path in opened.files_of_none_but(free)]
            yield Garbage(
                kind=VERSIONS,
                path=self._name(table),
                why="no kept release needs them",
                files=len(weights),
                bytes=sum(each.bytes for each in weights),
                versions=tuple(sorted(free)),
            )

    def _ours(self, kind: str) -> list[Path]:
        there = sorted((self._folder / kind).glob("*")) if kind.split("/")[0] in self._kinds else []
        return [path for path in there if OURS.fullmatch(path.name)]

    def _old(self, paths: Iterable[Path], kind: str, why: str) -> Iterator[Garbage]:
        for path in paths:
            weight = weigh(path)
            if not self._grace.covers(weight.changed):
                yield self._garbage(path, kind, why, weight)

    def _garbage(self, path: Path, kind: str, why: str, weight: Weight | None = None) -> Garbage:
        weight = weight or weigh(path)
        return Garbage(kind=kind, path=self._name(path), why=why, files=weight.files, bytes=weight.bytes)

    def _name(self, path: Path) -> str:
        return path.relative_to(self._folder if path.is_relative_to(self._folder) else beside(self._folder)).as_posix()


def _delete_records(folder: Path, found: Found, kind: str) -> list[Garbage]:
    """Delete records for good, before anything that they name goes."""
    gone = [each for each in found.garbage if each.kind == kind and _deleted(folder, each)]
    for parent in {(folder / each.path).parent for each in gone}:
        sync(parent)
    return gone


def _deleted(folder: Path, garbage: Garbage) -> bool:
    """Whether it went."""
    path = folder / garbage.path
    hit("collect.before", path)
    try:
        if garbage.kind == TAGS:
            TableUpkeep(path.parents[2]).untag([path.stem])
        elif garbage.versions:
            TableUpkeep(path).clean_up(garbage.versions)
        elif path.is_dir() and not path.is_symlink():
            # An object has no folder that could be renamed.
            whole = path.suffix == GONE or isinstance(path, ObjectPath)
            delete_folder(path if whole else path.rename(path.with_name(f".{path.name}{GONE}")))
        else:
            path.unlink()
    except FileNotFoundError:
        return False  # somebody else collects, too
    except (OSError, ValueError, RuntimeError) as error:
        logger.warning("%s can't be deleted: %s", path, error)
        return False
    _forget_here(folder, garbage)
    hit("collect.after", path)
    return True


def _forget_here(folder: Path, garbage: Garbage) -> None:
    """Delete what this machine has of it, where that is somewhere else."""
    here = beside(folder) / garbage.path
    if beside(folder) != folder and not garbage.versions:
        shutil.rmtree(here, ignore_errors=True)
        with contextlib.suppress(OSError):
            here.unlink()
