"""Whether the service can answer."""

from fastapi import APIRouter
from pydantic import BaseModel

from pairloom.search.web.service import Service


class Health(BaseModel, frozen=True):
    """That it can."""

    status: str
    release: int
    model_id: str


def router(service: Service) -> APIRouter:
    """Where a load balancer asks."""
    routes = APIRouter(tags=["service"])

    @routes.get("/health")
    def health() -> Health:
        """200 where a release is served; 503, with the reason, where none can be."""
        with service.reading() as opened:
            return Health(status="ok", release=opened.record.number, model_id=opened.record.model_id)

    return routes
