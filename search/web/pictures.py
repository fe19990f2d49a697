"""Pictures by reference: WebP of a given size, made once and remembered."""

import io
from collections import OrderedDict
from threading import Lock
from typing import Annotated

import pyarrow as pa
from fastapi import APIRouter, Query, Response

from pairloom.search.web.ranking import rows_of
from pairloom.search.web.served import ServedRelease
from pairloom.search.web.service import Service
from pairloom.storage.corpus import Corpus
from pairloom.storage.images.decoding import open_stored

SIZES = (48, 96, 192, 384, 768)
"""Longest sides that are made; any other is the next larger of these."""
THUMBNAIL = 96
"""Longest side of what the table holds."""
FOR_EVER = "private, max-age=31536000, immutable"


class Pictures:
    """Pictures that were shown lately, at most `limit` bytes of them."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._held: OrderedDict[tuple[str, str, int], bytes] = OrderedDict()
        self._size = 0
        self._lock = Lock()

    @property
    def size(self) -> int:
        """Bytes that they take."""
        return self._size

    def get(self, key: tuple[str, str, int]) -> bytes | None:
        """What is held of a release's (or the uploads') picture at a size."""
        with self._lock:
            found = self._held.get(key)
            if found is not None:
                self._held.move_to_end(key)
            return found

    def put(self, key: tuple[str, str, int], content: bytes) -> None:
        """Hold a picture, and let go what was shown longest ago."""
        with self._lock:
            self._size += len(content) - len(self._held.pop(key, b""))
            self._held[key] = content
            while self._size > self._limit and self._held:
                self._size -= len(self._held.popitem(last=False)[1])


def address(release: ServedRelease, row_id: int) -> str:
    """Where the picture of a row is: the same for ever."""
    return f"/pictures/{release.key}/{row_id}.webp"


def sized(content: bytes, size: int) -> bytes:
    """A stored picture as WebP with its longest side at most `size`; it is never made larger."""
    image = open_stored(content)
    image.thumbnail((size, size))
    out = io.BytesIO()
    image.save(out, "WEBP", quality=82, method=2)
    return out.getvalue()


def nearest_size(size: int) -> int:
    """The size that is made for one that is asked for."""
    return next((each for each in SIZES if each >= size), SIZES[-1])


def hold_thumbnails(pictures: Pictures, release: ServedRelease, found: dict[int, bytes]) -> None:
    """Remember the thumbnails of rows, which are asked for next."""
    for row_id, content in found.items():
        pictures.put((release.key, str(row_id), THUMBNAIL), content)


def stored_image(release: ServedRelease, item_id: str) -> bytes | None:
    """The image of an item as the corpus holds it; None where it no longer does."""
    corpus = Corpus(release.folder)
    try:
        snapshot = corpus.log.read(release.record.snapshot)
    except (ValueError, RuntimeError):
        return None
    wanted = pa.array([item_id], pa.string())
    for part in snapshot.parts:
        for batch in corpus.read(snapshot, part, ["image"], among=("item_id", wanted)):
            for row in batch.to_pylist():
                content: bytes = row["image"]["bytes"]
                return content
    return None


def router(service: Service, pictures: Pictures) -> APIRouter:
    """Where pictures are had."""
    routes = APIRouter(tags=["pictures"])

    @routes.get("/pictures/{key}/{row}.webp", response_class=Response, responses={200: {"content": {"image/webp": {}}}})
    def picture(key: str, row: int, size: Annotated[int, Query(ge=1, le=4_096)] = THUMBNAIL) -> Response:
        """The picture of a row of a release, its longest side at most `size` (one of a few sizes)."""
        wanted = nearest_size(size)
        content = pictures.get((key, str(row), wanted))
        if content is None:
            content = _made(service, pictures, key, row, wanted)
        return Response(content, media_type="image/webp", headers={"Cache-Control": FOR_EVER})

    return routes


def _made(service: Service, pictures: Pictures, key: str, row: int, size: int) -> bytes:
    number = key.partition("-")[0]
    if not number.isascii() or not number.isdigit() or len(number) > 9:
        raise LookupError("there is no such picture")
    with service.reading(int(number)) as release:
        if release.key != key:
            raise LookupError("there is no such picture")
        (stored,) = rows_of(release, [row], ["item_id", "thumbnail"])
        content: bytes = stored["thumbnail"]
        if size > THUMBNAIL:
            larger = stored_image(release, stored["item_id"])
            content = sized(larger, size) if larger else content
        elif size < THUMBNAIL:
            content = sized(content, size)
    pictures.put((key, str(row), size), content)
    return content
