"""What is found: pages of the items nearest to texts, pictures and items. Each answer names the release it is of."""

import time
from collections.abc import Sequence
from typing import Annotated, Any

from fastapi import APIRouter, Request
from fastapi import Query as Parameter
from pydantic import BaseModel, Field

from pairloom.search.combination import Item
from pairloom.search.options import Options
from pairloom.search.query import MAX_K, Query
from pairloom.search.rerank import CANDIDATES
from pairloom.search.web.choice import chosen, condition, parameters
from pairloom.search.web.pictures import Pictures, address, hold_thumbnails
from pairloom.search.web.ranking import Ranking, all_rows, rank, rows_of
from pairloom.search.web.served import ServedRelease
from pairloom.search.web.service import Service
from pairloom.search.web.uploads import Uploads
from pairloom.storage.plain_values import json_value
from pairloom.storage.releases import Cutoff

PAGE = 60
"""Most hits of one page."""
LONGEST_TEXT = 1_000
MOST_PARTS = 20
RANKINGS = 512

Words = Annotated[str, Field(max_length=LONGEST_TEXT)]
Id = Annotated[str, Field(max_length=1_024)]


class WebHit(BaseModel, frozen=True, use_attribute_docstrings=True):
    """One item found."""

    place: int
    """1 for the best."""
    item_id: str
    score: float | None
    """Cosine similarity of the query and the item's image; None where nothing was asked."""
    texts: list[str]
    path: str | None
    group: str | None
    metadata: dict[str, Any]
    picture: str
    fits: bool | None
    """Whether it reaches the release's cut-off for such a question; None where there is none."""


class Answer(BaseModel, frozen=True, use_attribute_docstrings=True):
    """One page of an answer."""

    release: int
    model_id: str
    title: str
    """The query in words; empty where nothing was asked."""
    cutoff: Cutoff | None
    """How it is told which hits fit, and how good that is; None where none was measured for such a question."""
    unmet_words: list[str]
    """Words of the question that no training text of the model has."""
    offset: int
    hits: list[WebHit]
    more: bool
    """Whether there are hits beyond this page."""
    milliseconds: float
    """What finding them took here."""


class Asked(BaseModel, frozen=True):
    """What is asked for, as addresses say it."""

    text: str | None
    plus: tuple[str, ...]
    minus: tuple[str, ...]
    like: tuple[str, ...]
    image: str | None
    hybrid: bool = False
    rerank: bool = False

    @property
    def nothing(self) -> bool:
        """Whether everything is meant."""
        return not (self.text or self.plus or self.minus or self.like or self.image)

    def query(self, uploads: Uploads) -> Query:
        """As a release is asked. LookupError where the picture is no longer here."""
        image = uploads.picture(self.image) if self.image else None
        like = self.like[0] if self.like else None
        beside = map(Item, self.like[1:])
        return Query(text=self.text or None, image=image, like=like, plus=(*self.plus, *beside), minus=self.minus)

    def options(self, where: str | None) -> Options:
        """How it is answered."""
        return Options(where=where, hybrid=self.hybrid, rerank=CANDIDATES if self.rerank else None)


class Answers:
    """Pages of answers; the order of the items is worked out once for all pages."""

    def __init__(self, service: Service, pictures: Pictures, uploads: Uploads) -> None:
        self._service = service
        self._pictures = pictures
        self._uploads = uploads
        self._rankings = service.cache("rankings", RANKINGS)

    def page(self, release: ServedRelease, asked: Asked, where: str | None, offset: int, count: int) -> Answer:
        """`count` hits from place `offset` on."""
        begun = time.perf_counter()
        cutoff: Cutoff | None = None
        unmet: list[str] = []
        scores: Sequence[float | None]
        fits: Sequence[bool | None] = [None] * count
        if asked.nothing:
            found = all_rows(release, where, offset, count + 1)
            row_ids, scores, more, title = found[:count], [None] * count, len(found) > count, ""
        else:
            query = asked.query(self._uploads)
            ranking = self._ranking(release, asked, query, where, offset + count + 1)
            own = slice(offset, offset + count)
            row_ids, scores = ranking.row_ids[own].tolist(), ranking.scores[own].tolist()
            more = len(ranking.row_ids) > offset + count
            fits, cutoff, unmet = ranking.fits[own], ranking.cutoff, [*ranking.unmet_words]
            title = query.title if len(asked.like) < 2 else f"like {len(asked.like)} items"
        hits = self._hits(release, row_ids, list(zip(scores, fits, strict=False)), offset)
        return Answer(
            release=release.record.number,
            model_id=release.record.model_id,
            title=title,
            cutoff=cutoff,
            unmet_words=unmet,
            offset=offset,
            hits=hits,
            more=more,
            milliseconds=round(1_000 * (time.perf_counter() - begun), 1),
        )

    def _ranking(self, release: ServedRelease, asked: Asked, query: Query, where: str | None, wanted: int) -> Ranking:
        key = (release.key, asked, where)
        found: Ranking | None = self._rankings.known(key)
        if found is None or not (found.complete or len(found.row_ids) >= min(wanted, MAX_K - 1)):
            size = wanted
            found = self._rankings.get((key, size), lambda: rank(release, query, asked.options(where), size))
            self._rankings.put(key, found)
        return found

    def _hits(
        self,
        release: ServedRelease,
        row_ids: Sequence[int],
        told: Sequence[tuple[float | None, bool | None]],
        offset: int,
    ) -> list[WebHit]:
        keep = list(release.record.keep)
        rows = rows_of(release, row_ids, ["item_id", "texts", "path", "group", "thumbnail", *keep])
        hold_thumbnails(self._pictures, release, {at: row["thumbnail"] for at, row in zip(row_ids, rows, strict=True)})
        return [
            WebHit(
                place=offset + place,
                item_id=row["item_id"],
                score=score,
                texts=row["texts"],
                path=row["path"],
                group=row["group"],
                metadata={name: json_value(row[name]) for name in keep},
                picture=address(release, row_id),
                fits=fit,
            )
            for place, (row, row_id, (score, fit)) in enumerate(zip(rows, row_ids, told, strict=False), 1)
        ]


def router(service: Service, answers: Answers) -> APIRouter:
    """Where things are looked for."""
    routes = APIRouter(tags=["search"])

    @routes.get("/api/search")
    def search(
        request: Request,
        text: Annotated[str | None, Parameter(max_length=LONGEST_TEXT, description="What to look for.")] = None,
        plus: Annotated[list[Words], Parameter(max_length=MOST_PARTS, description="Texts to add to the query.")] = [],  # noqa: B006
        minus: Annotated[list[Words], Parameter(max_length=MOST_PARTS, description="Texts to take from it.")] = [],  # noqa: B006
        like: Annotated[list[Id], Parameter(max_length=MOST_PARTS, description="Ids of items to resemble.")] = [],  # noqa: B006
        image: Annotated[str | None, Parameter(max_length=64, description="A picture given to `/api/images`.")] = None,
        hybrid: Annotated[bool, Parameter(description="Find what holds the texts' words, too.")] = False,
        rerank: Annotated[bool, Parameter(description="Have the cross-encoder order the nearest.")] = False,
        where: Annotated[str | None, Parameter(max_length=4_096, description="A SQL condition on columns.")] = None,
        offset: Annotated[int, Parameter(ge=0, lt=MAX_K)] = 0,
        k: Annotated[int, Parameter(ge=1, le=PAGE, description="Hits on this page.")] = 24,
        release: Annotated[int | None, Parameter(ge=1, le=10**9, description="Ask an older release.")] = None,
    ) -> Answer:
        """The items nearest to all that is given; everything where nothing is.

        `f.COLUMN=VALUE` keeps only items with that value (given twice: either value; of a number or time a range such
        as `10..20`).
        """
        asked = Asked(
            text=(text or "").strip() or None,
            plus=tuple(plus),
            minus=tuple(minus),
            like=tuple(dict.fromkeys(like)),
            image=image,
            hybrid=hybrid,
            rerank=rerank,
        )
        with service.reading(release) as opened:
            picked = chosen(opened, parameters(request.query_params.multi_items()))
            return answers.page(opened, asked, condition(picked, where), offset, min(k, MAX_K - 1 - offset) or 1)

    return routes
