"""Releases: the numbered records that bind one snapshot, one model and one table version; all a reader trusts."""

import contextlib
from collections.abc import Callable, Collection, Iterable
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, Field

from pairloom.storage.checked import CheckedFiles
from pairloom.storage.files import DamagedError, FileDigests
from pairloom.storage.modelstore import BESIDE, EXPORT_FILES
from pairloom.storage.records import Record, RecordLog
from pairloom.storage.schema import ColumnType
from pairloom.storage.table.upkeep import TableUpkeep


class Training(BaseModel, frozen=True, extra="forbid"):
    """The last training that this pipeline tried: what the next night's decision to retrain rests on."""

    config_digest: str
    """Digest of the config blocks that shape a model."""
    items: int
    """Items in the corpus when it was trained."""
    snapshot: int | None = None
    """Number of the snapshot that it was trained on; None in records older than this field."""
    trained_at: datetime
    verdict: Literal["released", "held"]


class Cutoff(BaseModel, frozen=True, extra="forbid"):
    """The score from which on a hit is taken to fit, and how good that is, as measured when its model was released."""

    score: float
    corrected: bool
    """Whether it is of twice the cosine less the item's hubness, not of the cosine."""
    margin_weight: float = 0
    """How much of a query's margin, its nearest cosine less the mean of the next ten, is added to each score before it
    is compared; not in records older than this field."""
    max_false_finds: float
    """Share that it was made for."""
    queries: int
    """Validation queries that it was measured with."""
    true_finds: float
    """Share of them that an item of their own concept fits."""
    false_finds: float
    """Share of them that something fits although all items of their own concept are left out."""


class Lineage(BaseModel, frozen=True, extra="forbid"):
    """How a release came about; what its model came from stands beside that."""

    version: str
    """Of Pairloom, with its commit where that is known."""
    config_digest: str
    """Of the pipeline's whole configuration."""
    config: dict[str, Any]
    """The keys of it, as after `--set`, whose values aren't the defaults of that version. No secret."""
    seconds: dict[str, float]
    """Wall seconds of each stage of the night, up to where the release was put together."""
    cost: dict[str, float] = Field(default={})
    """Of each stage whose work pool has a price, in `currency`."""
    currency: str = ""


class Release(Record, frozen=True):
    """One published, bound state. Paths are relative to the pipeline's folder."""

    created_at: datetime
    snapshot: int
    snapshot_digest: str
    model_id: str
    """The model that serves."""
    measured_model: str | None = None
    """The one that was measured, where the one that serves is that after it has learned from all items; None where they
    are one, as in records older than this field."""
    table: str
    """The LanceDB table's folder, `vectors/<model_id>.lance`."""
    table_version: int
    rows: int
    dimension: int
    max_side: int
    """Longest side of the stored images, which query images are shrunk to as well."""
    trim: bool = False
    """Whether the stored images are cut to their content boxes, and query images with them; not in records older than
    this field."""
    keep: dict[str, ColumnType]
    """The pipeline's own metadata columns in the table."""
    cutoffs: dict[str, Cutoff] = Field(default={})
    """By direction: text_to_image and image_to_image, as far as there were queries enough to tell; empty in records
    older than this field."""
    too_few: dict[str, int] = Field(default={})
    """By direction that has no cut-off for want of validation queries: how many there are at most; empty in records
    older than this field."""
    hubness: bool = False
    """Whether readers order what texts find with the items' hubness taken off, a column of the table; not in records
    older than this field."""
    index: str | None
    """Kind of the vector index; None where every query is answered exactly."""
    metrics: dict[str, float]
    intervals: dict[str, tuple[float, float]] = Field(default={})
    """Low and high end of `metrics`; empty in records older than this field."""
    training: Training
    reason: str
    """Why this release was made, in words."""
    lineage: Lineage | None = None
    """None in records older than this field, and where one went back to such."""
    rolled_back_to: int | None = None
    """The release whose content this one names again."""
    best: int | None = None
    """The release that later challengers are compared with beside this one: whose model was the best of those measured
    on the same items, however many came since. None where that was this one's."""

    @property
    def measured(self) -> str:
        """The model whose quality is known: later ones are compared with it, and start from it."""
        return self.measured_model or self.model_id

    @property
    def measured_files(self) -> FileDigests:
        """Those of the measured model, but for its card and log, where another one serves; readers need none."""
        twin = f"models/{self.measured_model}/"
        return {
            name: digest
            for name, digest in self.files.items()
            if name.startswith(twin) and name.removeprefix(twin) not in BESIDE
        }

    @property
    def needed(self) -> FileDigests:
        """All files but those beside the model: what is served doesn't rest on its card, lineage and log, nor on its
        exported towers, without which torch answers, nor on the measured model where another one serves."""
        beside, twin = {f"models/{self.model_id}/{name}" for name in BESIDE}, f"models/{self.measured_model}/"
        return {name: digest for name, digest in self.files.items() if name not in beside and not name.startswith(twin)}

    @property
    def model_files(self) -> FileDigests:
        """Those of the needed files that are the model's."""
        return {name: digest for name, digest in self.needed.items() if name.startswith(f"models/{self.model_id}/")}

    @property
    def export_files(self) -> FileDigests:
        """The model's exported towers; none in records older than these, and where none could be exported."""
        exported = {f"models/{self.model_id}/{name}" for name in EXPORT_FILES}
        return {name: digest for name, digest in self.files.items() if name in exported}

    @property
    def table_files(self) -> FileDigests:
        """Those of the needed files that are the table's."""
        return {name: digest for name, digest in self.needed.items() if name.startswith(f"{self.table}/")}


class ReleaseLog(RecordLog[Release]):
    """The releases of one pipeline."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, "release", Release)

    def current(self) -> Release | None:
        """The highest release that is whole; None where nothing has ever been released.

        Raises DamagedError, naming the files, where there are releases but none of them is whole: a night that took
        that for a first one would train a model without a gate over what people search.
        """
        release = super().current()
        if release is None and (numbers := self.numbers()):
            raise DamagedError(none_whole(self, numbers))
        return release


def none_whole(log: ReleaseLog, numbers: list[int]) -> str:
    """What is wrong with the newest of some releases, and what can be done."""
    reasons = []
    for number in sorted(numbers, reverse=True)[:3]:
        try:
            log.read(number)
        except DamagedError as error:
            reasons.append(str(error))
    return (
        f"none of the {len(numbers)} releases of {log.folder} is whole: {'; '.join(reasons)}. Put the files back; or, "
        f"to begin anew with a first release, move {log.path(numbers[0]).parent} away"
    )


def release_log(folder: Path) -> ReleaseLog:
    """The releases of the pipeline that lives in `folder`."""
    return ReleaseLog(folder)


def kept_releases(log: ReleaseLog, count: int) -> list[Release]:
    """The newest `count` releases that are whole, and those that they name; newest first."""
    newest = [*islice(log.newest_first(), count)]
    return newest + named_by(log, newest)


def named_by(log: ReleaseLog, releases: Collection[Release]) -> list[Release]:
    """Those that are not among some releases and that these name, as far as they can be read.

    They are what rollbacks went back to, and the best.
    """
    numbers = {release.number for release in releases}
    named = {number for release in releases for number in (release.rolled_back_to, release.best)}
    targets, found = {number for number in named if number is not None} - numbers, []
    for number in sorted(targets & {*log.numbers()}, reverse=True) if targets else ():
        with contextlib.suppress(DamagedError):
            found.append(log.stored(number))
    return found


def taken_back(releases: Iterable[Release]) -> set[int]:
    """Numbers of those of some releases that a rollback went back behind, and that none has named again since."""
    numbers: set[int] = set()
    for release in sorted(releases, key=lambda each: each.number):
        if release.rolled_back_to is not None:
            numbers |= set(range(release.rolled_back_to + 1, release.number))
            numbers.discard(release.rolled_back_to)
    return numbers


def stays_back(log: ReleaseLog, current: Release, brings: Callable[[Release], bool], config_digest: str) -> int | None:
    """The release that the rollback which `current` is went back behind, and which tonight would bring again.

    Tonight brings it where neither the corpus nor the training configuration is another one than the release was made
    from; `brings` tells the former. None where something is new, and where `current` is no rollback.
    """
    if current.rolled_back_to is None:
        return None
    for release in log.written():
        if release.number <= current.rolled_back_to:
            break
        one = release.number < current.number and release.rolled_back_to is None
        if one and release.training.config_digest == config_digest and brings(release):
            return release.number
    return None


def roll_back(folder: Path, number: int) -> Release:
    """Publish a new record that names the content of release `number` again.

    Raises ValueError where there is none, DamagedError where its files are not what was released.
    """
    log = release_log(folder)
    old = log.read(number)
    if wrong := CheckedFiles(folder).wrong(old.needed):
        raise DamagedError(f"release {number} is not whole: {'; '.join(wrong[:3])}")
    release = old.model_copy(
        update={
            "number": log.next_number(),
            "created_at": datetime.now(UTC),
            "reason": f"rolled back to release {number}",
            "rolled_back_to": number,
        }
    )
    TableUpkeep(folder / release.table, release.table_version).tag(release.number, release.table_version)
    # Garbage collection takes a release's record away first and then looks for tags: one of the two sees the other.
    log.read(number)
    log.publish(release)
    return release
