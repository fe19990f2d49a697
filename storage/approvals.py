"""Approvals: numbered records of challengers that passed the gate and wait for a person, or were refused by one."""

import logging
from datetime import UTC, datetime
from pathlib import Path

from pydantic import BaseModel

from pairloom.storage.records import Record, RecordLog
from pairloom.storage.releases import Training, release_log

logger = logging.getLogger(__name__)


class Refusal(BaseModel, frozen=True, extra="forbid"):
    """What ended a challenger's wait without a release."""

    at: datetime
    by: str
    """A person, or what found the challenger unfit since."""
    reason: str
    """Empty where a person gave none."""


class Approval(Record, frozen=True):
    """A challenger that passed, with all that a later release of it needs. Its model_id is the digest of its files."""

    model_id: str
    """The model that will serve."""
    measured_model: str | None = None
    """The one that was measured, where they are two; None in records older than this field."""
    run_id: str
    since: datetime
    until: datetime
    """From when on it is too late to release it."""
    champion: int | None
    """Number of the release that stood when it was measured; None where there was none."""
    champion_model: str | None
    snapshot_digest: str
    """Of the items that it was trained and measured on."""
    training: Training
    trained_because: str
    metrics: dict[str, float]
    intervals: dict[str, tuple[float, float]]
    comparisons: tuple[str, ...]
    figures: str
    """The headline metrics beside the champion's, on one line."""
    refused: Refusal | None = None

    @property
    def measured(self) -> str:
        """The model whose figures these are."""
        return self.measured_model or self.model_id

    def waits(self, pipeline: str) -> str:
        """That it waits, and what a person can do, in a sentence."""
        return (
            f"model {self.model_id} passed the gate and waits for approval until {self.until:%Y-%m-%d %H:%M} UTC: "
            f"{self.figures}; `pairloom approve -p {pipeline}` releases it, `pairloom refuse -p {pipeline}` does not"
        )


def approval_log(folder: Path) -> RecordLog[Approval]:
    """The approvals of the pipeline that lives in `folder`."""
    return RecordLog(folder, "approval", Approval)


def last_approval(folder: Path) -> Approval | None:
    """The last challenger that was to be approved, whatever became of it; None where its record is damaged."""
    log = approval_log(folder).as_listed()
    numbers, found = log.numbers(), next(log.written(), None)
    if numbers and (found is None or found.number != max(numbers)):
        # An older one is no stand-in: it may be one that was refused or replaced.
        logger.warning("%s is damaged: what it says of a challenger is not believed", log.path(max(numbers)))
        return None
    return found


def ended(folder: Path, approval: Approval) -> str:
    """Why a challenger waits no more, in a sentence; empty where it waits."""
    model = f"model {approval.model_id}"
    if approval.refused:
        why = f": {approval.refused.reason}" if approval.refused.reason else ""
        return f"{model} was refused by {approval.refused.by}{why}"
    for release in release_log(folder).written():
        if release.number <= (approval.champion or 0):
            break
        last = release.training
        # A release of new rows or a rollback says of an older training that it was released.
        if last.verdict == "released" and last.trained_at >= approval.training.trained_at:
            own = release.model_id == approval.model_id
            return f"{model} is release {release.number}" if own else f"release {release.number} came after {model}"
    if datetime.now(UTC) >= approval.until:
        return f"nobody approved {model} before {approval.until:%Y-%m-%d %H:%M} UTC"
    return ""


def waiting(folder: Path) -> Approval | None:
    """The challenger that waits for a person's word in the pipeline that lives in `folder`."""
    last = last_approval(folder)
    return None if last is None or ended(folder, last) else last


def waiting_models(folder: Path) -> set[str]:
    """The model_ids that wait: clean-up takes neither these models nor what they embedded."""
    found = waiting(folder)
    return {found.model_id, found.measured} if found else set()


def require_waiting(folder: Path) -> Approval:
    """What waits. Raises ValueError where nothing does, saying what became of the last challenger."""
    last = last_approval(folder)
    why = ended(folder, last) if last else f"see `pairloom status -p {folder.name}`"
    if last is None or why:
        raise ValueError(f"nothing waits for approval in pipeline {folder.name!r}: {why}")
    return last


def refuse(folder: Path, approval: Approval, *, by: str, reason: str) -> Approval:
    """Remember that a challenger is not to be released. Raises StaleWriterError where another word came first."""
    refusal = Refusal(at=datetime.now(UTC), by=by, reason=reason)
    refused = approval.model_copy(update={"number": approval.number + 1, "refused": refusal})
    approval_log(folder).publish(refused)
    return refused
