"""Rows that are no items, by reason, with their pictures where these can be found."""

from datetime import datetime
from threading import BoundedSemaphore
from typing import Annotated, Any

from fastapi import APIRouter, Response
from fastapi import Path as PathPart
from fastapi import Query as Parameter
from pydantic import BaseModel

from pairloom.search.web.errors import TooManyError
from pairloom.search.web.pictures import FOR_EVER, sized
from pairloom.search.web.service import Service
from pairloom.storage.corpus import Corpus
from pairloom.storage.images.config import IngestConfig
from pairloom.storage.images.decoding import decode
from pairloom.storage.images.location import Address, Origin
from pairloom.storage.images.stored_image import RejectedImage
from pairloom.storage.quarantine import ReasonCount, RejectedRows, require_reason
from pairloom.storage.secrets import redacted
from pairloom.storage.sources.image_folder import ImageFolder
from pairloom.storage.sources.source_row import RejectedRowError

PAGE = 48
SIDE = 192
AT_ONCE = 2
"""Such processes."""
SECONDS = 10.0
"""That one picture may take."""
TOGETHER = 8
"""Pictures that lie beside one another and are decoded by one process."""
WAIT = 20.0
"""Seconds until a request that has no turn is refused."""


class Row(BaseModel, frozen=True, use_attribute_docstrings=True):
    """One rejected row."""

    source: str
    row: int
    item_id: str | None
    image_path: str | None
    outcome: str
    reason: str
    message: str
    attempts: int
    first_seen: datetime
    picture: str | None
    """Where its picture may be had; None where it names none that lies in a folder of ours."""


class Reasons(BaseModel, frozen=True):
    """How many rows were rejected for which reason."""

    snapshot: int
    items: int
    rejected: int
    reasons: list[ReasonCount]


class Rows(BaseModel, frozen=True):
    """A page of them."""

    reason: str
    offset: int
    rows: list[Row]
    more: bool


class Rejected:
    """The rejected rows of the newest snapshot."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._corpus = Corpus(service.folder)
        self._held = service.cache("rejected", 4)
        self._pictures = service.cache("rejected pictures", 512 // TOGETHER)
        self._turns = BoundedSemaphore(AT_ONCE)

    def reasons(self) -> Reasons:
        """Them counted."""
        snapshot = self._corpus.current()
        counts: list[ReasonCount] = self._held.get(
            ("counts", snapshot.number), lambda: RejectedRows(self._corpus, snapshot).counts(self._service.sources)
        )
        shown = [each.model_copy(update={"example": redacted(each.example)}) for each in counts]
        rejected = sum(each.rows for each in counts)
        return Reasons(snapshot=snapshot.number, items=snapshot.rows, rejected=rejected, reasons=shown)

    def page(self, reason: str, offset: int, count: int) -> Rows:
        """Those of one reason. ValueError where there is no such reason."""
        require_reason(reason)
        snapshot = self._corpus.current()
        found = self._rows(snapshot.number, reason)
        own = found[offset : offset + count]
        rows = [
            Row(
                source=row["source"],
                row=row["row"],
                item_id=row["item_id"],
                image_path=row["image_path"] and redacted(row["image_path"]),
                outcome=row["outcome"],
                reason=row["reason"],
                message=redacted(row["message"]),
                attempts=row["attempts"],
                first_seen=row["first_seen"],
                picture=f"/pictures/rejected/{snapshot.number}/{reason}/{place}.webp" if self._origin(row) else None,
            )
            for place, row in enumerate(own, offset)
        ]
        return Rows(reason=reason, offset=offset, rows=rows, more=len(found) > offset + count)

    def picture(self, snapshot: int, reason: str, place: int) -> bytes:
        """The picture of one as WebP. LookupError where there is none, or it can't be read."""
        block = place // TOGETHER
        found: dict[int, bytes | str] = self._pictures.get(
            (snapshot, reason, block), lambda: self._made(snapshot, reason, block)
        )
        picture = found.get(place, "there is no such picture")
        if isinstance(picture, str):
            raise LookupError(picture)
        return picture

    def _made(self, snapshot: int, reason: str, block: int) -> dict[int, bytes | str]:
        """Some pictures that lie on one page, or why they aren't shown: starting a process for each takes longest."""
        if snapshot != self._corpus.current().number:
            raise LookupError("there is no such picture any more")
        rows = self._rows(snapshot, reason)
        places = range(block * TOGETHER, min((block + 1) * TOGETHER, len(rows)))
        origins = [(place, origin) for place in places if (origin := self._origin(rows[place])) is not None]
        if not self._turns.acquire(timeout=WAIT):
            raise TooManyError("too many pictures at once: try again in a moment")
        try:
            config = IngestConfig(max_side=SIDE, min_side=1, workers=1, timeout_seconds=SECONDS)
            return {
                place: f"the picture can't be read: {found.message}"
                if isinstance(found, RejectedImage)
                else sized(found.content, SIDE)
                for place, found in decode(origins, config)
            }
        finally:
            self._turns.release()

    def _rows(self, number: int, reason: str) -> list[dict[str, Any]]:
        def read() -> list[dict[str, Any]]:
            rows: list[dict[str, Any]] = (
                RejectedRows(self._corpus, self._corpus.current(), reason=reason).table().to_pylist()
            )
            return rows

        found: list[dict[str, Any]] = self._held.get((number, reason), read)
        return found

    def _origin(self, row: dict[str, Any]) -> Origin | None:
        """Where its picture lies: below the folder of its source's images, or nowhere. No address is fetched."""
        source = next((each for each in self._service.sources if each.label == row["source"]), None)
        if source is None or not row["image_path"]:
            return None
        for file in source.paths:
            try:
                origin = ImageFolder(source.image_folder(file)).find(row["image_path"]).origin
            except (RejectedRowError, OSError, ValueError):
                continue
            return None if isinstance(origin, Address) else origin
        return None


def router(rejected: Rejected) -> APIRouter:
    """Where they are had."""
    routes = APIRouter(tags=["nights"])

    @routes.get("/api/quarantine")
    def reasons() -> Reasons:
        """How many rows are no items for which reason, with an example and what usually helps."""
        return rejected.reasons()

    @routes.get("/api/quarantine/rows")
    def rows(
        reason: Annotated[str, Parameter(max_length=100)],
        offset: Annotated[int, Parameter(ge=0, le=10**7)] = 0,
        k: Annotated[int, Parameter(ge=1, le=PAGE)] = 24,
    ) -> Rows:
        """The rows of one reason, a page of them."""
        return rejected.page(reason, offset, k)

    @routes.get("/pictures/rejected/{snapshot}/{reason}/{place}.webp", response_class=Response)
    def picture(snapshot: int, reason: str, place: Annotated[int, PathPart(ge=0)]) -> Response:
        """The picture of a rejected row."""
        require_reason(reason)
        content = rejected.picture(snapshot, reason, place)
        return Response(content, media_type="image/webp", headers={"Cache-Control": FOR_EVER})

    return routes
