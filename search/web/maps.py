"""The map of a release: many of its items on a plane, where like images lie near one another."""

from typing import Annotated

from fastapi import APIRouter, Response
from fastapi import Query as Parameter
from pydantic import BaseModel

from pairloom.models.evaluation.projection import Method, require_method
from pairloom.search.map import MAX_ITEMS, ReleaseMap
from pairloom.search.map_picture import COLOURS, OTHER_COLOUR
from pairloom.search.web.jobs import Jobs, Working
from pairloom.search.web.served import ServedRelease
from pairloom.search.web.service import Service

POINTS: dict[Method, int] = {"pca": 10_000, "umap": MAX_ITEMS}
"""Items that are drawn at most: UMAP's time grows faster."""
TEXT = 80
WAIT = 3.0


class MapPoints(BaseModel, frozen=True, use_attribute_docstrings=True):
    """Items on a plane, an item a place in each list."""

    release: int
    model_id: str
    title: str
    method: Method
    methods: list[Method]
    column: str
    """What colours them."""
    columns: list[str]
    """What could."""
    labels: list[str]
    """Values with colours, most frequent first; the last one stands for all others."""
    colours: list[str]
    pictures: str
    """Where pictures are: this, then the row, then `.webp`."""
    x: list[float]
    """From 0 to 1, to the right."""
    y: list[float]
    """From 0 to 1, upwards."""
    label: list[int]
    row: list[int]
    item_id: list[str]
    text: list[str]


def map_points(release: ServedRelease, method: Method, colour: str | None) -> MapPoints:
    """The map of a release. ValueError for a column that it hasn't, or a method that isn't installed."""
    laid = ReleaseMap(release, method=method, colour=colour, most=POINTS[method])
    rows = release.dataset.take(laid.places, columns=["item_id", "texts", "_rowid"])
    labels = [*laid.labels.shown, "others"]
    place = {name: at for at, name in enumerate(laid.labels.shown)}
    texts = [(own[0] if own else "")[:TEXT] for own in rows["texts"].to_pylist()]
    return MapPoints(
        release=release.record.number,
        model_id=release.record.model_id,
        title=laid.title,
        method=method,
        methods=_methods(),
        column=laid.labels.column,
        columns=[name for name, kind in release.record.keep.items() if kind in ("string", "bool", "int64")]
        + ["group", "split", "source"],
        labels=labels,
        colours=[*COLOURS[: len(laid.labels.shown)], OTHER_COLOUR],
        pictures=f"/pictures/{release.key}/",
        x=[round(x, 4) for x in laid.points_S2[:, 0].tolist()],
        y=[round(y, 4) for y in laid.points_S2[:, 1].tolist()],
        label=[place.get(value, len(labels) - 1) for value in laid.labels.values],
        row=rows["_rowid"].to_pylist(),
        item_id=rows["item_id"].to_pylist(),
        text=texts,
    )


def _methods() -> list[Method]:
    found: list[Method] = ["pca"]
    try:
        require_method("umap")
        found.append("umap")
    except ValueError:
        pass
    return found


def router(service: Service, jobs: Jobs) -> APIRouter:
    """Where the map is had."""
    routes = APIRouter(tags=["map"])

    @routes.get("/api/map", responses={202: {"model": Working, "description": "It is being laid out: ask again."}})
    def map_(
        response: Response,
        method: Method = "pca",
        colour: Annotated[str | None, Parameter(max_length=200)] = None,
    ) -> MapPoints | Working:
        """Items on a plane by their image embeddings, where like images lie near one another."""
        require_method(method)
        with service.reading() as release:
            found = jobs.get(
                ("map", release.key, method, colour), lambda _: map_points(release, method, colour), wait=WAIT
            )
        if isinstance(found, Working):
            response.status_code = 202
        return found

    return routes
