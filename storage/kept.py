"""What is kept of a pipeline: the releases that can be served again, and all that they and the next night need."""

import json
from collections.abc import Collection
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from pairloom.storage.approvals import approval_log, last_approval, waiting, waiting_models
from pairloom.storage.files import DamagedError
from pairloom.storage.grace import Grace, weigh
from pairloom.storage.records import RecordLog
from pairloom.storage.releases import Release, named_by, release_log
from pairloom.storage.retention import RetentionConfig
from pairloom.storage.runs import Run
from pairloom.storage.snapshots import Snapshot, SnapshotLog
from pairloom.storage.table.versions import held_versions, release_of


@dataclass(frozen=True)
class KeptReleases:
    """What is kept of the releases."""

    releases: tuple[Release, ...]
    """Those whose content stays."""
    first: int
    """Records are kept from this number on: those in between say what a rollback took back."""
    newest: int
    """Number of the newest record, whole or not."""
    unknown: tuple[str, ...]
    """Why it isn't known what some release names, a sentence each."""

    def holds(self, tag: str, model_id: str) -> bool:
        """Whether a tag of the model's vector table is a kept release's, one's that is to come, or none of ours."""
        number = release_of(tag)
        if number is None or number > self.newest:
            return True
        return any(
            tag in (f"release-{each.number:06d}", f"release-{each.number:06d}-v{each.table_version}")
            for each in self.releases
            if (each.number, each.model_id) == (number, model_id)
        )


@dataclass(frozen=True)
class KeptSnapshots:
    """What is kept of the corpus."""

    snapshots: tuple[Snapshot, ...]
    records: frozenset[int]
    """Numbers, those included that can't be read."""
    embedded: frozenset[str]
    """Digests of the parts whose embeddings stay: of what releases serve, and of the newest state."""
    unknown: tuple[str, ...]

    @property
    def files(self) -> frozenset[str]:
        """All that their records name, relative to the pipeline's folder."""
        return frozenset(name for snapshot in self.snapshots for name in snapshot.files)


@dataclass(frozen=True)
class KeptWork:
    """What is kept of work in progress."""

    runs: frozenset[str]
    models: frozenset[str]
    """Models that runs have trained or that a person is asked about."""
    pairs: frozenset[str]
    unknown: tuple[str, ...]


def kept_releases(folder: Path, retention: RetentionConfig, grace: Grace) -> KeptReleases:
    """The newest whole ones, those that were current until lately, and those that they name.

    Raises DamagedError where there are releases and none of them is whole.
    """
    log = release_log(folder).as_listed()
    whole = [*islice(log.newest_first(), retention.releases)]
    if not whole:
        log.current()
    first = whole[-1].number if len(whole) == retention.releases else 0
    recent = grace.recent(log)
    readable = {release.number: release for release in log.written()}
    kept = [release for number, release in readable.items() if number >= first or number in recent]
    kept += named_by(log, kept)
    lost = [number for number in log.numbers() if number not in readable and (number >= first or number in recent)]
    return KeptReleases(
        releases=tuple(kept),
        first=min([*lost, *(release.number for release in kept)], default=0),
        newest=max(log.numbers(), default=0),
        unknown=tuple(_damage(log, number) for number in sorted(lost)),
    )


def kept_snapshots(folder: Path, releases: Collection[Release], grace: Grace) -> KeptSnapshots:
    """The newest one, those that were it until lately, and those that kept releases and what waits need."""
    log = SnapshotLog(folder).as_listed()
    readable = {snapshot.number: snapshot for snapshot in log.written()}
    newest = max(readable, default=0)
    served = {newest, *(release.snapshot for release in releases)}
    asked = waiting(folder)
    trainings = [*(release.training for release in releases), *([asked.training] if asked else [])]
    trained = {training.snapshot for training in trainings if training.snapshot is not None}
    wanted = served | trained | grace.recent(log)
    damaged = [each for each in log.numbers() if each not in readable and (each in wanted or each > newest)]
    embedded = [part for number in served & readable.keys() for part in readable[number].parts]
    return KeptSnapshots(
        snapshots=tuple(readable[number] for number in sorted(wanted & readable.keys())),
        records=frozenset({*(wanted & readable.keys()), *damaged}),
        embedded=frozenset(part.digest for part in embedded),
        unknown=tuple(_damage(log, number) for number in sorted(damaged)),
    )


def kept_work(folder: Path, current: Collection[str], releases: KeptReleases, grace: Grace) -> KeptWork:
    """The `current` runs, which a night goes on with, and young ones; what they have made; what is to be released."""
    runs = {path.name for path in folders(folder / "runs") if path.name in current or grace.covers(weigh(path).changed)}
    models, pairs, unknown = set[str | None](waiting_models(folder)), set[str | None](), []
    asked = approval_log(folder)
    if asked.numbers() and last_approval(folder) is None:
        unknown.append(f"{asked.path(max(asked.numbers()))} can't be read")
    at_work = [own.folder for run in runs for own in (Run(folder, run), Run(folder, run).refit)]
    for path in (each for place in at_work for each in place.glob("[!.]*.json")):
        try:
            said: dict[str, Any] = json.loads(path.read_bytes())
            models.add(said.get("model_id"))
            pairs.add(said.get("pairs_id"))
        except (OSError, ValueError, AttributeError) as error:
            unknown.append(f"{path} can't be read: {error}")
    for table in folders(folder / "vectors"):
        # A release is held by its tag before its record is there.
        if any((release_of(tag) or 0) > releases.newest for tag in held_versions(table)):
            models.add(table.stem)
    return KeptWork(
        runs=frozenset(runs),
        models=frozenset(model for model in models if model),
        pairs=frozenset(each for each in pairs if each),
        unknown=tuple(unknown),
    )


def folders(folder: Path) -> list[Path]:
    """The folders in a folder, by name, but for what is on its way out."""
    return sorted(path for path in folder.glob("[!.]*") if path.is_dir())


def _damage(log: RecordLog[Any], number: int) -> str:
    """What is wrong with a record that can't be read."""
    try:
        log.read(number)
    except (DamagedError, ValueError) as error:
        return str(error)
    return f"{log.kind} {number} couldn't be read a moment ago"
