"""How a night ended, as it is printed, reported and returned."""

from datetime import date
from typing import Any, Literal, Self

from pydantic import BaseModel, Field

from pairloom.flows.build import Built
from pairloom.models.evaluation.findings import Finding
from pairloom.models.evaluation.slices import overall, slices
from pairloom.search.rehearsal import GoldenAnswer
from pairloom.storage.quarantine import ReasonCount
from pairloom.tasks.pipeline import Pipeline
from pairloom.tasks.refs import CollectedRef, PairsRef, Plan, ReleaseRef, SnapshotRef, Verdict, VerifiedRef


class Night(BaseModel, frozen=True):
    """One night of one pipeline."""

    pipeline: str
    as_of: date | None = None
    """The past day that it was run for."""
    outcome: Literal["released", "held", "unchanged", "failed"]
    release: int | None
    """The release that is served now."""
    model_id: str | None
    measured_model: str | None = None
    """The model that `metrics` are of where it isn't the one that serves, which has learned from all items since."""
    reason: str
    rows: dict[str, int]
    metrics: dict[str, float]
    """Of tonight's challenger; without one, of the champion."""
    floor: dict[str, float] = {}
    """What textbook features reach without training on the same items; of nights that measured a challenger."""
    floor_said: str = Field(default="", exclude=True)
    """The same in a sentence; for people."""
    intervals: dict[str, tuple[float, float]] = Field(default={}, exclude=True)
    """Low and high end of `metrics`."""
    comparisons: tuple[str, ...] = Field(default=(), exclude=True)
    """Challenger and champion in words; for the report."""
    findings: tuple[Finding, ...] = Field(default=(), exclude=True)
    """What tonight's rows are like beside the released ones; for the report."""
    pairs_id: str | None = Field(default=None, exclude=True)
    """The pairs mined tonight; for the report."""
    trained: str | None = Field(default=None, exclude=True)
    """The model trained tonight, released or not; for the report."""
    rejected: tuple[ReasonCount, ...] = Field(default=(), exclude=True)
    """Tonight's rows that are no items, by reason; for people."""
    golden: tuple[GoldenAnswer, ...] = Field(default=(), exclude=True)
    """What golden queries found tonight, by the last model that was asked; for people."""
    collected: CollectedRef | None = Field(default=None, exclude=True)
    """What was deleted in the end; for people."""
    seconds: dict[str, float]

    def to_json(self) -> dict[str, Any]:
        """What `run --json` prints: `metrics` of all queries, and `slices` apart, the lowest of each column."""
        measured = {"metrics": overall(self.metrics), "slices": slices(self.metrics), "floor": overall(self.floor)}
        return self.model_dump(mode="json") | measured

    @classmethod
    def ended(
        cls,
        pipeline: Pipeline,
        snapshot: SnapshotRef,
        plan: Plan,
        verdict: Verdict | None,
        built: Built | None,
        release: ReleaseRef | None,
        pairs: PairsRef | None,
        seconds: dict[str, float],
        verified: VerifiedRef | None = None,
        collected: CollectedRef | None = None,
    ) -> Self:
        """A night that came to its end, whatever that was."""
        model_held = verdict is not None and not verdict.passed
        # Where nothing else came of the night, that items stay whose rows are gone is what people must hear of.
        removals_held = not release and snapshot.rows_seen.get("removals_held", 0) > 0
        held = plan.rows_held or plan.waits or model_held or removals_held
        why = [plan.reason, *filter(None, [plan.approval])] if plan.rows_held or not model_held else []
        reasons = [*(verdict.reasons if verdict and model_held else ()), *why, *snapshot.removals_held]
        reasons += verified.damaged if verified else ()
        return cls(
            pipeline=pipeline.name,
            as_of=pipeline.as_of,
            outcome="held" if held else "released" if release else "unchanged",
            release=release.number if release else plan.champion,
            model_id=release.model_id if release else plan.champion_model,
            measured_model=release.measured_model if release else plan.champion_measured,
            reason="; ".join(reasons),
            rows=_rows(snapshot, release.rows if release else plan.champion_rows),
            metrics=verdict.metrics if verdict else plan.champion_metrics,
            intervals=verdict.intervals if verdict else plan.champion_intervals,
            floor=verdict.floor.metrics if verdict and verdict.floor else {},
            floor_said=verdict.floor.summary if verdict and verdict.floor else "",
            comparisons=verdict.comparisons if verdict else (),
            findings=plan.findings,
            pairs_id=pairs.pairs_id if pairs else None,
            trained=verdict.model_id if verdict else None,
            rejected=snapshot.rejected,
            golden=built.golden if built else (),
            collected=collected,
            seconds=seconds,
        )

    @classmethod
    def failed(cls, pipeline: str | None, reason: str, snapshot: SnapshotRef | None = None) -> Self:
        """A night that did not come to its end; `snapshot` is what its ingest left, where it came so far."""
        return cls(
            pipeline=pipeline or "",
            outcome="failed",
            release=None,
            model_id=None,
            reason=reason,
            rows=_rows(snapshot) if snapshot else {},
            metrics={},
            seconds={},
        )


_COUNTED = ("seen", "new", "updated", "duplicate", "filtered", "quarantined", "removed", "removals_held")


def _rows(snapshot: SnapshotRef, served: int | None = None) -> dict[str, int]:
    counts = {name: snapshot.rows_seen[name] for name in _COUNTED if name in snapshot.rows_seen}
    return counts if served is None else {**counts, "served": served}
