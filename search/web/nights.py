"""What the nights brought: the releases with their figures, in their order, and the challenger that waits."""

from datetime import datetime

from fastapi import APIRouter
from pydantic import BaseModel

from pairloom.search.web.service import NoReleaseError, Service
from pairloom.storage.approvals import waiting
from pairloom.storage.releases import Release, release_log, taken_back
from pairloom.storage.secrets import redacted

MOST = 400
"""Nights that are told."""


class Night(BaseModel, frozen=True, use_attribute_docstrings=True):
    """A night that published a release."""

    release: int
    created_at: datetime
    reason: str
    model_id: str
    new_model: bool
    """Whether it is another model than the release before had."""
    verdict: str
    """What the gate said of the last training: `released`, or `held` where the champion stayed."""
    trained_at: datetime
    rows: int
    snapshot: int
    index: str | None
    rolled_back_to: int | None
    taken_back: bool
    """Whether a later rollback went back behind it."""
    metrics: dict[str, float]
    intervals: dict[str, tuple[float, float]]


class Waiting(BaseModel, frozen=True):
    """A challenger that passed the gate and waits for a person's word."""

    model_id: str
    since: datetime
    until: datetime
    figures: str
    comparisons: list[str]


class Nights(BaseModel, frozen=True):
    """The history of a pipeline, newest first."""

    pipeline: str
    metrics: list[str]
    nights: list[Night]
    waiting: Waiting | None


def history(service: Service) -> Nights:
    """What is known of the nights. NoReleaseError where none has published anything."""
    folder = service.folder
    releases = [*release_log(folder).newest_first()][:MOST]
    if not releases:
        raise NoReleaseError(f"pipeline {folder.name!r} has no release yet")
    back = taken_back(releases)
    before = [*releases[1:], None]
    nights = [_night(release, earlier, back) for release, earlier in zip(releases, before, strict=True)]
    names = sorted({name for night in nights for name in night.metrics})
    challenger = waiting(folder)
    return Nights(
        pipeline=folder.name,
        metrics=sorted(names, key=lambda name: (_rank(name), name)),
        nights=nights,
        waiting=Waiting(
            model_id=challenger.model_id,
            since=challenger.since,
            until=challenger.until,
            figures=challenger.figures,
            comparisons=list(challenger.comparisons),
        )
        if challenger
        else None,
    )


def _night(release: Release, earlier: Release | None, back: set[int]) -> Night:
    return Night(
        release=release.number,
        created_at=release.created_at,
        reason=redacted(release.reason),
        model_id=release.model_id,
        new_model=earlier is None or earlier.model_id != release.model_id,
        verdict=release.training.verdict,
        trained_at=release.training.trained_at,
        rows=release.rows,
        snapshot=release.snapshot,
        index=release.index,
        rolled_back_to=release.rolled_back_to,
        taken_back=release.number in back,
        metrics={name: value for name, value in release.metrics.items() if "/" not in name},
        intervals={name: ends for name, ends in release.intervals.items() if "/" not in name},
    )


def _rank(name: str) -> int:
    """Headline metrics come first."""
    heads = ("text_to_image_recall@10", "image_to_text_recall@10", "text_to_image_recall@1")
    return heads.index(name) if name in heads else len(heads)


def router(service: Service) -> APIRouter:
    """Where the history is had."""
    routes = APIRouter(tags=["nights"])

    @routes.get("/api/nights")
    def nights() -> Nights:
        """The releases with their metrics, newest first, and the challenger that waits for approval."""
        return history(service)

    return routes
