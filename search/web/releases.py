"""The release that answers, and those that can be looked at beside it."""

from datetime import datetime
from typing import Any

from fastapi import APIRouter
from pydantic import BaseModel

from pairloom.search.web.choice import facet_columns
from pairloom.search.web.items import model_lineage
from pairloom.search.web.served import ServedRelease
from pairloom.search.web.service import Service


class ServedFacts(BaseModel, frozen=True, use_attribute_docstrings=True):
    """The release that answers."""

    pipeline: str
    release: int
    model_id: str
    architecture: str | None
    created_at: datetime
    rows: int
    reason: str
    index: str | None
    """Kind of the vector index; None where every answer is exact."""
    columns: dict[str, str]
    """What can be chosen by, with its type."""
    metrics: dict[str, float]
    reranks: bool
    """Whether the model has a cross-encoder, which can order the nearest items anew."""
    examples: list[str]
    """Texts of some items: what one may ask."""


def served_facts(release: ServedRelease) -> ServedFacts:
    """What is told of it."""
    record = release.record
    model: Any = model_lineage(release).get("model")
    return ServedFacts(
        pipeline=release.folder.name,
        release=record.number,
        model_id=record.model_id,
        architecture=model.get("architecture") if isinstance(model, dict) else None,
        created_at=record.created_at,
        rows=record.rows,
        reason=record.reason,
        index=record.index,
        columns=facet_columns(release),
        metrics={name: value for name, value in record.metrics.items() if "/" not in name},
        reranks=release.model.reranks,
        examples=_examples(release),
    )


def _examples(release: ServedRelease, count: int = 6) -> list[str]:
    rows = release.dataset.count_rows()
    if not rows:
        return []
    places = sorted({rows * at // (2 * count) for at in range(1, 2 * count, 1)})
    texts = [each[0] for each in release.dataset.take(places, columns=["texts"])["texts"].to_pylist() if each]
    return [text for text in dict.fromkeys(texts) if 2 < len(text) <= 40 and text.isprintable()][:count]


def router(service: Service) -> APIRouter:
    """Where the release is told."""
    routes = APIRouter(tags=["releases"])
    held = service.cache("facts", 8)

    @routes.get("/api/release")
    def release() -> ServedFacts:
        """The release that answers now."""
        with service.reading() as opened:
            found: ServedFacts = held.get(opened.key, lambda: served_facts(opened))
            return found

    return routes
