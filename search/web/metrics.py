"""What the service does, counted for Prometheus."""

import time

import psutil
from fastapi import APIRouter, Response
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from pairloom.search.web.pictures import Pictures
from pairloom.search.web.service import Service

SECONDS = (0.005, 0.01, 0.02, 0.04, 0.08, 0.15, 0.3, 0.6, 1.2, 2.5, 5.0, 10.0, 30.0)


class Measurements:
    """The counts of one service."""

    def __init__(self, service: Service, pictures: Pictures) -> None:
        self._service = service
        self._pictures = pictures
        self.registry = CollectorRegistry()
        self.requests = Counter("pairloom_requests", "Requests answered", ["route", "status"], registry=self.registry)
        self.seconds = Histogram(
            "pairloom_request_seconds", "Time of answers", ["route"], buckets=SECONDS, registry=self.registry
        )
        self.under_way = Gauge("pairloom_requests_under_way", "Requests worked on", registry=self.registry)
        self._release = Gauge("pairloom_release", "Number of the release that answers", registry=self.registry)
        self._rows = Gauge("pairloom_items", "Items that it serves", registry=self.registry)
        self._age = Gauge("pairloom_release_created_seconds", "When it was made, in Unix time", registry=self.registry)
        self._batches = Gauge("pairloom_text_batches", "Batches of texts it has encoded", registry=self.registry)
        self._texts = Gauge("pairloom_texts_encoded", "Texts in these batches", registry=self.registry)
        self._held = Gauge("pairloom_picture_bytes", "Memory of pictures shown lately", registry=self.registry)
        self._memory = Gauge("pairloom_resident_bytes", "Memory of the process", registry=self.registry)

    def text(self) -> bytes:
        """All of them as Prometheus reads them. The release is 0 while there is none."""
        try:
            with self._service.reading() as release:
                self._release.set(release.record.number)
                self._rows.set(release.record.rows)
                self._age.set(release.record.created_at.timestamp())
                self._batches.set(release.batches.batches)
                self._texts.set(release.batches.texts)
        except (RuntimeError, ValueError, OSError):
            self._release.set(0)
        self._held.set(self._pictures.size)
        self._memory.set(psutil.Process().memory_info().rss)
        return generate_latest(self.registry)


class Measured:
    """Counts what passes."""

    def __init__(self, app: ASGIApp, measurements: Measurements) -> None:
        self.app = app
        self._to = measurements

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        begun, status = time.perf_counter(), 500

        async def sent(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        with self._to.under_way.track_inprogress():
            try:
                await self.app(scope, receive, sent)
            finally:
                # The route's own words: addresses that callers make up would be as many names.
                route = getattr(scope.get("route"), "path", "other")
                self._to.requests.labels(route, str(status)).inc()
                self._to.seconds.labels(route).observe(time.perf_counter() - begun)


def router(measurements: Measurements) -> APIRouter:
    """Where Prometheus looks."""
    routes = APIRouter(tags=["service"])

    @routes.get("/metrics", response_class=Response)
    def metrics() -> Response:
        """Counts and times of requests, the release, memory; in Prometheus' text format."""
        return Response(measurements.text(), media_type=CONTENT_TYPE_LATEST)

    return routes
