"""Two releases side by side: rows, model and where it comes from, metrics, index, and how answers moved."""

import json
from datetime import datetime
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from pairloom.search.answer_diff import AnswersDiff, Progress, Questions, compare_answers
from pairloom.search.release import OpenRelease
from pairloom.search.row_diff import RowsDiff, compare_rows
from pairloom.storage.files import DamagedError
from pairloom.storage.releases import Release, ReleaseLog, release_log

_LINEAGE = ("model", "training", "mining", "objective")
"""Blocks of the configuration that a model's lineage holds."""


class Side(BaseModel, frozen=True, extra="forbid", use_attribute_docstrings=True):
    """One of the two releases."""

    release: int
    created_at: datetime
    reason: str
    model_id: str
    measured_model: str | None
    """The model that its metrics are of, where another one serves."""
    trained_at: datetime | None
    """When its model was trained; None where no record that can be read tells."""
    trained_on: int | None
    """Number of the snapshot that its model was trained on; None where its lineage is missing."""
    parent: str | None
    """The model that the training started from, if any."""
    snapshot: int
    index: str | None
    hubness: bool
    """Whether what texts find is ordered with it taken off."""


class Setting(BaseModel, frozen=True, extra="forbid"):
    """A key of the configuration that differs; None where there is no such key."""

    key: str
    before: Any
    after: Any


class Metric(BaseModel, frozen=True, extra="forbid"):
    """One metric as each release was measured; None where it was not."""

    name: str
    before: float | None
    after: float | None
    before_interval: tuple[float, float] | None
    after_interval: tuple[float, float] | None
    difference: float | None


class ReleaseDiff(BaseModel, frozen=True, extra="forbid"):
    """All that two releases differ in."""

    before: Side
    after: Side
    same_model: bool
    rows: RowsDiff
    settings: list[Setting]
    metrics: list[Metric]
    answers: AnswersDiff


def compare(folder: Path, before: int, after: int, questions: Questions, progress: Progress) -> ReleaseDiff:
    """What release `after` of the pipeline in `folder` has otherwise than release `before`.

    Raises ValueError where there is no such release, DamagedError where one is not whole or its files were cleaned up;
    both name the releases that can be compared.
    """
    log = release_log(folder)
    old, new = (_opened(log, number) for number in (before, after))
    if old.model.is_of(new.record):
        new = OpenRelease(folder, new.record, old.model)
    return ReleaseDiff(
        before=_side(log, old.record),
        after=_side(log, new.record),
        same_model=old.record.model_id == new.record.model_id,
        rows=compare_rows(old, new),
        settings=_settings(folder, old.record, new.record),
        metrics=_metrics(old.record, new.record),
        answers=compare_answers(old, new, questions, progress),
    )


def _opened(log: ReleaseLog, number: int) -> OpenRelease:
    try:
        return OpenRelease.open(log.folder, number)
    except ValueError as error:
        raise ValueError(f"{error}; {_comparable(log)}") from error
    except DamagedError as error:
        raise DamagedError(f"{error}; {_comparable(log)}") from error


def _comparable(log: ReleaseLog) -> str:
    whole = ", ".join(str(release.number) for release in reversed([*log.newest_first()]))
    return f"can be compared: {whole or 'none'}"


def _side(log: ReleaseLog, record: Release) -> Side:
    facts = _lineage(log.folder, record)
    return Side(
        release=record.number,
        created_at=record.created_at,
        reason=record.reason,
        model_id=record.model_id,
        measured_model=record.measured_model,
        trained_at=_trained_at(log, record),
        trained_on=facts.get("snapshot"),
        parent=facts.get("parent"),
        snapshot=record.snapshot,
        index=record.index,
        hubness=record.hubness,
    )


def _trained_at(log: ReleaseLog, record: Release) -> datetime | None:
    """When the model of a release was trained: its own record tells of a later training where that one was held."""
    for each in (record, *log.written()):
        if each.model_id == record.model_id and each.training.verdict == "released":
            return each.training.trained_at
    return None


def _lineage(folder: Path, record: Release) -> dict[str, Any]:
    """What stands beside the model of where it comes from; a release is whole without that."""
    try:
        facts: dict[str, Any] = json.loads((folder / "models" / record.model_id / "pairloom.json").read_bytes())
    except (OSError, ValueError):
        return {}
    return facts


def _settings(folder: Path, before: Release, after: Release) -> list[Setting]:
    """The keys that differ: what the models were trained by, where that is known of both, and what the tables hold."""
    facts = [_lineage(folder, each) for each in (before, after)]
    told = _LINEAGE if all(facts) else ()
    old, new = (
        _flat(
            {
                **{key: own.get(key) for key in told},
                "columns.keep": each.keep,
                "ingest.max_side": each.max_side,
                "ingest.trim": each.trim,
            }
        )
        for own, each in zip(facts, (before, after), strict=True)
    )
    keys = dict.fromkeys([*old, *new])
    return [Setting(key=key, before=old.get(key), after=new.get(key)) for key in keys if old.get(key) != new.get(key)]


def _flat(block: Any, path: str = "") -> dict[str, Any]:
    """Values by their dotted keys; the losses of an objective by their places."""
    if isinstance(block, list) and any(isinstance(each, dict) for each in block):
        block = {str(place): each for place, each in enumerate(block)}
    if not isinstance(block, dict):
        return {path: block}
    found: dict[str, Any] = {}
    for key, value in block.items():
        found |= _flat(value, f"{path}.{key}" if path else str(key))
    return found


def _metrics(before: Release, after: Release) -> list[Metric]:
    found = []
    for name in dict.fromkeys([*after.metrics, *before.metrics]):
        old, new = before.metrics.get(name), after.metrics.get(name)
        found.append(
            Metric(
                name=name,
                before=old,
                after=new,
                before_interval=before.intervals.get(name),
                after_interval=after.intervals.get(name),
                difference=None if old is None or new is None else new - old,
            )
        )
    return found
