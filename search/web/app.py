"""The web application: the routes of each noun, and the layers that every request passes."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from anyio.to_thread import current_default_thread_limiter
from fastapi import FastAPI
from starlette.types import ASGIApp

from pairloom.search.web import (
    answers,
    comparing,
    facets,
    health,
    items,
    maps,
    metrics,
    nights,
    pages,
    pictures,
    rejected,
    releases,
    report,
    statements,
    uploads,
)
from pairloom.search.web.access import Access
from pairloom.search.web.errors import add_handlers
from pairloom.search.web.jobs import Jobs
from pairloom.search.web.limits import Limits
from pairloom.search.web.service import Service


def create_app(service: Service, *, version: str = "") -> ASGIApp:
    """What an ASGI server runs."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        current_default_thread_limiter().total_tokens = service.config.workers
        service.start()
        yield
        service.end()

    app = FastAPI(
        title="Pairloom",
        version=version or "unknown",
        summary="One release, searched: every answer names the release and the model that it comes from.",
        openapi_url="/api/openapi.json",
        docs_url=None,
        redoc_url=None,
        lifespan=lifespan,
    )
    add_handlers(app)
    held = pictures.Pictures(service.config.picture_bytes)
    uploaded = uploads.Uploads(service)
    found = answers.Answers(service, held, uploaded)
    jobs = Jobs()
    measured = metrics.Measurements(service, held)
    for routes in (
        answers.router(service, found),
        facets.router(service),
        statements.router(service),
        items.router(service),
        releases.router(service),
        comparing.router(service, found),
        nights.router(service),
        rejected.router(rejected.Rejected(service)),
        maps.router(service, jobs),
        report.router(service, Jobs()),
        uploads.router(uploaded),
        pictures.router(service, held),
        health.router(service),
        metrics.router(measured),
        pages.router(),
    ):
        app.include_router(routes)
    guarded: ASGIApp = metrics.Measured(app, measured)
    if service.config.token is not None:
        guarded = Access(guarded, service.config.token)
    return Limits(guarded, service.config)
