"""Pictures that people ask with: decoded in a child process, remembered for a while by the digest of their bytes."""

import hashlib
import threading
from io import BytesIO
from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.concurrency import run_in_threadpool
from PIL import Image
from pydantic import BaseModel

from pairloom.search.combination import Stored
from pairloom.search.web.errors import TooManyError
from pairloom.search.web.pictures import FOR_EVER, sized
from pairloom.search.web.service import Latest, Service
from pairloom.storage.images.decoding import decode
from pairloom.storage.images.stored_image import RejectedImage

AT_ONCE = 2
"""Pictures that are decoded at once."""
SECONDS = 10.0
_BODY: dict[str, Any] = {
    "required": True,
    "content": {"image/*": {"schema": {"type": "string", "format": "binary"}}},
}


class UploadedImage(BaseModel, frozen=True, use_attribute_docstrings=True):
    """A picture that can be asked with."""

    image: str
    """What `/api/search?image=` takes."""
    width: int
    height: int
    picture: str
    """Where it can be seen."""


class Uploads:
    """The pictures uploaded last."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._held: Latest[bytes] = Latest(service.config.uploads)
        self._turns = threading.BoundedSemaphore(AT_ONCE)

    def take(self, content: bytes) -> UploadedImage:
        """Decode and remember a picture. ValueError, in one line, where it is none that can be read."""
        name = hashlib.sha256(content).hexdigest()[:32]
        stored = self._held.known(name)
        if stored is None:
            stored = self._decoded(content)
            self._held.put(name, stored)
        with Image.open(BytesIO(stored)) as image:
            width, height = image.size
        return UploadedImage(image=name, width=width, height=height, picture=f"/pictures/uploads/{name}.webp")

    def stored(self, name: str) -> bytes:
        """What is remembered of one. LookupError where it no longer is."""
        stored = self._held.known(name)
        if stored is None:
            raise LookupError("the picture is no longer here: drop it again")
        return stored

    def picture(self, name: str) -> Stored:
        """The same, as a part of a query."""
        return Stored(self.stored(name))

    def _decoded(self, content: bytes) -> bytes:
        if not content:
            raise ValueError("the upload is empty")
        with self._service.reading() as release:
            config = release.as_ingested.model_copy(update={"workers": 1, "timeout_seconds": SECONDS})
        if not self._turns.acquire(timeout=SECONDS):
            raise TooManyError("too many pictures at once: try again in a moment")
        try:
            ((_, found),) = decode([(0, lambda: content)], config)
        finally:
            self._turns.release()
        if isinstance(found, RejectedImage):
            raise ValueError(f"the upload is no picture that can be read: {found.message}")
        return found.content


def router(uploads: Uploads) -> APIRouter:
    """Where pictures are given, and seen again."""
    routes = APIRouter(tags=["pictures"])

    @routes.post("/api/images", status_code=201, openapi_extra={"requestBody": _BODY})
    async def upload(request: Request) -> UploadedImage:
        """Give a picture to search by: its bytes are the request's body, of type `image/…`."""
        kind = request.headers.get("content-type", "")
        # Such a type a page elsewhere can't send without asking first.
        if not kind.startswith("image/") and kind != "application/octet-stream":
            raise ValueError("the body is to be a picture, its type image/… or application/octet-stream")
        content = await request.body()
        return await run_in_threadpool(uploads.take, content)

    @routes.get("/pictures/uploads/{name}.webp", response_class=Response)
    def uploaded(name: str) -> Response:
        """A picture that was given."""
        return Response(sized(uploads.stored(name), 384), media_type="image/webp", headers={"Cache-Control": FOR_EVER})

    return routes
