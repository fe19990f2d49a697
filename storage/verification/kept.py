"""What a pipeline keeps: the records, and the files that those of kept releases and of their snapshots name."""

from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path

from pairloom.storage.files import DamagedError, FileDigest
from pairloom.storage.modelstore import CARD_FILES, EXPORT_FILES
from pairloom.storage.records import RecordLog
from pairloom.storage.releases import Release, release_log
from pairloom.storage.snapshots import Snapshot, SnapshotLog
from pairloom.storage.verification.findings import Fault, Kind


@dataclass
class Named:
    """A file with the digest that records give it, and which of them do."""

    kind: Kind
    releases: set[int] = field(default_factory=set)
    snapshots: set[int] = field(default_factory=set)


@dataclass
class Kept:
    """The records of one pipeline and what they name."""

    releases: list[Release]
    """Kept ones that can be read, oldest first."""
    snapshots: dict[int, Snapshot]
    """Those that the releases name, and the current one; by number."""
    files: dict[tuple[str, FileDigest], Named]
    faults: list[Fault]
    records: list[str]
    """Paths of all records, damaged or not."""


def kept(folder: Path, releases: int) -> Kept:
    """What the newest `releases` releases of the pipeline in `folder` keep. Of older records only they themselves."""
    log, snapshots = release_log(folder), SnapshotLog(folder)
    found = Kept([], {}, defaultdict(), [], [])
    newest = max(log.numbers(), default=0)
    _read_releases(found, log, range(max(1, newest - releases + 1), newest + 1))
    _read_snapshots(found, snapshots)
    for release in found.releases:
        for name, digest in release.files.items():
            kind = _release_kind(release, name)
            named = _named(found, name, digest, kind)
            named.releases.add(release.number)
            # What was measured for one release may serve another one.
            named.kind = "model" if kind == "model" else named.kind
    for number, snapshot in found.snapshots.items():
        for name, digest in snapshot.files.items():
            named = _named(found, name, digest, _snapshot_kind(name))
            named.snapshots.add(number)
            named.releases |= {release.number for release in found.releases if release.snapshot == number}
    return found


def _read_releases(found: Kept, log: RecordLog[Release], wanted: range) -> None:
    numbers = set(log.numbers())
    # Older ones may have been cleaned up, and those that were set aside are accounted for.
    aside = {int(path.stem) for path in log.set_aside.glob("*.json")}
    missing = [number for number in wanted if number > min(numbers, default=0) and number not in numbers | aside]
    for number in sorted(numbers):
        path = log.path(number)
        found.records.append(path.relative_to(log.folder).as_posix())
        try:
            release = log.stored(number)
        except DamagedError as error:
            needed = (number,) if number in wanted else ()
            found.faults.append(Fault(found.records[-1], "release record", _reason(error, path), needed))
        else:
            if number in wanted:
                found.releases.append(release)
    for number in missing:
        path = log.path(number)
        found.faults.append(Fault(path.relative_to(log.folder).as_posix(), "release record", "is missing", (number,)))


def _read_snapshots(found: Kept, log: SnapshotLog) -> None:
    needed = defaultdict(list)
    for release in found.releases:
        needed[release.snapshot].append(release.number)
    numbers = set(log.numbers())
    current = False
    for number in sorted(numbers | needed.keys(), reverse=True):
        path, releases = log.path(number), tuple(needed.get(number, ()))
        name = path.relative_to(log.folder).as_posix()
        if number not in numbers:
            found.faults.append(Fault(name, "snapshot record", "is missing", releases, (number,)))
            continue
        found.records.append(name)
        try:
            content = log.content(number)
        except DamagedError as error:
            found.faults.append(Fault(name, "snapshot record", _reason(error, path), releases, (number,)))
            continue
        if current and not releases:
            continue
        try:
            found.snapshots[number] = log.stored(number)
            current = True
        except DamagedError:
            # The record is whole: what it names is not.
            for own, digest in content["files"].items():
                named = _named(found, own, FileDigest.model_validate(digest), "manifest")
                named.snapshots.add(number)
                named.releases |= set(releases)


def _named(found: Kept, name: str, digest: FileDigest, kind: Kind) -> Named:
    return found.files.setdefault((name, digest), Named(kind))


def _release_kind(release: Release, name: str) -> Kind:
    if name.startswith(f"{release.table}/"):
        return "table"
    own = name.rpartition("/")[2]
    if own in EXPORT_FILES:
        return "exported tower"
    return "model card" if own in CARD_FILES else "measured model" if name in release.measured_files else "model"


def _snapshot_kind(name: str) -> Kind:
    kinds: dict[str, Kind] = {"corpus": "corpus part", "quarantine": "quarantine part"}
    return kinds.get(name.partition("/")[0], "manifest")


def _reason(error: DamagedError, path: Path) -> str:
    return str(error).partition(f"{path} ")[2] or str(error)
