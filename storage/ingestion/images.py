"""The images of rows that are not known as they are: known by their place or bytes, or decoded."""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from pairloom.storage.digest import bytes_digest
from pairloom.storage.images.config import IngestConfig
from pairloom.storage.images.decoding import decode
from pairloom.storage.images.location import Address, FileSlice, ImageAt, Origin
from pairloom.storage.images.stored_image import DecodedImage, RejectedImage
from pairloom.storage.ingestion.known_rows import Checked, KnownRows, Trim
from pairloom.storage.ingestion.settling import Picture
from pairloom.storage.reasons import Reason
from pairloom.storage.sources.source_row import SourceRow

# N = known rows

Decoder = Callable[[Iterable[tuple[Any, Origin]], IngestConfig], Iterator[tuple[Any, DecodedImage | RejectedImage]]]
"""As `pairloom.storage.images.decoding.decode`."""

MAX_ATTEMPTS = 10
"""How often an image that may pass is tried, before only another one or another limit has it tried again."""

UNKNOWN = bytes(16)
"""Stands for a digest of bytes that were not read."""

_LONGEST_READ = 64 * 2**20
_CONTENTS_AT_HAND = 256


@dataclass(frozen=True, slots=True)
class Found:
    """What is known of an image."""

    image: Picture | RejectedImage
    digest: bytes
    """Of its bytes, or UNKNOWN."""

    @property
    def retry(self) -> bool:
        """Whether it is decoded again the next night though nothing has changed."""
        image = self.image
        return isinstance(image, RejectedImage) and image.may_pass and image.attempts < MAX_ATTEMPTS


class Images:
    """The images of one night."""

    def __init__(self, known: KnownRows, config: IngestConfig, decoder: Decoder = decode) -> None:
        self.known = known
        self.usable = _usable(known, config)
        """Known rows whose image would be decoded to the same, bool (N,)."""
        self.decided_by = decision(config)
        self._config = config
        self._decoder = decoder
        self._tonight: dict[bytes, Found] = {}
        self._by_bytes = known.rows > 0

    def rows_to_trust(self) -> np.ndarray:
        """Known rows that are what they were if what is `checked` of them is, bool (N,)."""
        checked_N = self.known.numbers("checked")
        trusted_N: np.ndarray = (checked_N == Checked.NOTHING) | (self.usable & (checked_N != Checked.EVERYTHING))
        if self._config.near_duplicates == "merge":
            texts_N = self.known.column("texts").is_valid().to_numpy(zero_copy_only=False)
            trusted_N &= texts_N | ~self.known.numbers("is_picture")
        return trusted_N

    def of(self, rows: Sequence[SourceRow]) -> Iterator[tuple[Found, DecodedImage | None]]:
        """Each row's image, and what is to be stored of it where it was decoded just now."""
        places = [image_at(row.image) for row in rows]
        missing = {at: row.image for at, row in zip(places, rows, strict=True) if at not in self._tonight}
        before = dict(zip(missing, self.known.find("image_at", as_digests(missing)).tolist(), strict=True))
        for at, row in before.items():
            if row >= 0 and self.usable[row]:
                self._tonight[at] = known_image(self.known, row)
        results = self._decoded({at: image for at, image in missing.items() if at not in self._tonight}, before)
        contents: dict[bytes, DecodedImage] = {}
        for at in places:
            # Some turn out to be known while the next ones are sought.
            while at not in self._tonight and (result := next(results, None)):
                decoded_at, found, content = result
                self._tonight[decoded_at] = found
                if content is not None:
                    if len(contents) >= _CONTENTS_AT_HAND:
                        contents.clear()
                    contents[decoded_at] = content
            yield self._tonight[at], contents.get(at)

    def decoded(self, rows: Sequence[SourceRow]) -> Iterator[tuple[Found, DecodedImage | None]]:
        """The same for rows whose images are decoded whatever is known of them."""
        images = {place: row.image for place, row in enumerate(rows)}
        for place, image in self._decoder(((place, image.origin) for place, image in images.items()), self._config):
            found = self._tonight[image_at(images[place])] = Found(_picture(image), UNKNOWN)
            yield found, image if isinstance(image, DecodedImage) else None

    def forget(self, images: Iterable[ImageAt]) -> None:
        """Have these images decoded when they are met again."""
        places = [image_at(image) for image in images]
        for at in places:
            self._tonight.pop(at, None)
        self.usable &= ~np.isin(self.known.numbers("image_at")[:, 0], as_digests(places)[:, 0])
        # Whatever is known of equal bytes elsewhere is as doubtful.
        self._by_bytes = False

    def _decoded(
        self, images: dict[bytes, ImageAt], before: dict[bytes, int]
    ) -> Iterator[tuple[bytes, Found, DecodedImage | None]]:
        """Those whose bytes are not known."""
        digests: dict[bytes, Callable[[], bytes]] = {}

        def unknown() -> Iterator[tuple[bytes, Origin]]:
            for at, image in images.items():
                origin = image.origin
                if isinstance(origin, Address):
                    # What is there is known by its version, and else fetched.
                    digests[at] = _unread
                    yield at, origin
                    continue
                if isinstance(origin, Path | FileSlice):
                    digests[at] = _FileDigest(image, origin)
                elif self._by_bytes:
                    digests[at] = _ContentDigest(origin)
                else:
                    # Read once, where no bytes are known that could be compared.
                    digests[at] = origin = _ContentDigest(origin)
                    yield at, origin.read
                    continue
                digest = digests[at]()
                if (row := self._picture_of(digest)) is not None:
                    self._tonight[at] = Found(known_image(self.known, row).image, digest)
                else:
                    yield at, origin

        if images:
            for at, image in self._decoder(unknown(), self._config):
                found = Found(_picture(image), digests[at]())
                yield at, self._counted(found, before[at]), image if isinstance(image, DecodedImage) else None

    def _counted(self, found: Found, before: int) -> Found:
        """With the attempts of earlier nights."""
        if before < 0 or not isinstance(found.image, RejectedImage) or not found.image.may_pass:
            return found
        decided_by, picture, attempts = (
            self.known.column(name)[before].as_py() for name in ("decided_by", "is_picture", "attempts")
        )
        if picture or decided_by != self.decided_by:
            return found
        return replace(found, image=replace(found.image, attempts=attempts + 1))

    def _picture_of(self, digest: bytes) -> int | None:
        """A known row whose picture has these bytes."""
        if digest == UNKNOWN or not self._by_bytes:
            return None
        row = int(self.known.find("image_bytes", as_digests([digest]))[0])
        usable = row >= 0 and self.usable[row] and self.known.column("is_picture")[row].as_py()
        return row if usable else None


def known_image(known: KnownRows, row: int) -> Found:
    """What is known of the image of a known row."""

    def value(name: str) -> Any:
        return known.column(name)[row].as_py()

    if value("is_picture"):
        hashes = (value("pixel_hash").hex(), value("perceptual_hash").hex())
        stored = (value("stored_digest").hex(), value("trim") == Trim.DONE)
        return Found(Picture(*hashes, value("width"), value("height"), *stored), value("image_bytes"))
    rejected = RejectedImage(Reason(value("reason")), value("message"), value("transient"), value("attempts"))
    return Found(rejected, value("image_bytes"))


def image_at(image: ImageAt) -> bytes:
    """Digest of an image's place and version."""
    return hashlib.blake2b(f"{image.key}\0{image.version}".encode(), digest_size=16).digest()


def decision(config: IngestConfig) -> int:
    """Digest of what decides what an image becomes, beside its bytes."""
    return int.from_bytes(hashlib.blake2b(config.decided_by.encode(), digest_size=8).digest(), "little")


def as_digests(digests: Iterable[bytes]) -> np.ndarray:
    """16-byte digests as uint64 (Q, 2)."""
    found_Q2: np.ndarray = np.frombuffer(b"".join(digests), np.uint64).reshape(-1, 2)
    return found_Q2


def _picture(image: DecodedImage | RejectedImage) -> Picture | RejectedImage:
    if isinstance(image, RejectedImage):
        return image
    stored = bytes_digest(image.content)
    return Picture(image.pixel_hash, image.perceptual_hash, image.width, image.height, stored, image.trimmed)


def _usable(known: KnownRows, config: IngestConfig) -> np.ndarray:
    decided_N = known.numbers("decided_by") == decision(config)
    usable_N: np.ndarray = decided_N & ~known.numbers("retry")
    if not known.rows:
        return usable_N
    # Under other limits a picture is measured again; what is stored of it depends on `max_side` and `trim` alone.
    picture_N, trim_N = known.numbers("is_picture"), known.numbers("trim")
    if not decided_N.all():
        usable_N |= ~decided_N & picture_N & _same_at(known, config.max_side)
    usable_N &= ~picture_N | (trim_N == Trim.NEEDLESS) | (trim_N == (Trim.DONE if config.trim else Trim.OFF))
    return usable_N


def _same_at(known: KnownRows, max_side: int) -> np.ndarray:
    """Whether what is stored of an image is the same at another `max_side`: never for one that either would shrink."""
    before_N, length_N = known.numbers("max_side").astype(np.int64), known.numbers("length")
    low_N, high_N = np.minimum(before_N, max_side), np.maximum(before_N, max_side)
    # Files of up to so many bytes may be stored as they are.
    as_is_at_both_N, as_is_at_none_N = length_N <= 3 * low_N**2, length_N > 3 * high_N**2
    fits_N = np.maximum(known.numbers("width"), known.numbers("height")) <= low_N
    # With its margin, content may be larger than the picture was.
    fits_N &= known.numbers("trim") != Trim.DONE
    same_N: np.ndarray = (low_N == high_N) | ((length_N >= 0) & fits_N & (as_is_at_both_N | as_is_at_none_N))
    return same_N


class _FileDigest:
    """Of the bytes of a file or a part of one; UNKNOWN where that was changed since, or is too long to be read."""

    def __init__(self, image: ImageAt, origin: Path | FileSlice) -> None:
        self._path = origin if isinstance(origin, Path) else origin.path
        self._before = self._state()
        self._digest = UNKNOWN
        if self._before is not None and (image.length or 0) <= _LONGEST_READ:
            try:
                with self._path.open("rb") as stream:
                    if isinstance(origin, FileSlice):
                        stream.seek(origin.offset)
                    content = stream.read(_LONGEST_READ + 1 if isinstance(origin, Path) else origin.length)
            except OSError:
                return
            self._digest = _digest(content)

    def __call__(self) -> bytes:
        return self._digest if self._state() == self._before else UNKNOWN

    def _state(self) -> tuple[int, int] | None:
        try:
            status = self._path.stat()
        except (OSError, ValueError):
            return None
        return status.st_size, status.st_mtime_ns


class _ContentDigest:
    """Of bytes that are asked for: here, or by whoever calls `read`."""

    def __init__(self, origin: Callable[[], bytes]) -> None:
        self._origin = origin
        self._digest: bytes | None = None

    def read(self) -> bytes:
        content = self._origin()
        self._digest = _digest(content)
        return content

    def __call__(self) -> bytes:
        if self._digest is None:
            try:
                self.read()
            except (OSError, ValueError):
                self._digest = UNKNOWN
        assert self._digest is not None
        return self._digest


def _unread() -> bytes:
    return UNKNOWN


def _digest(content: bytes) -> bytes:
    return hashlib.blake2b(content, digest_size=16).digest()
