"""What became of each image file, remembered by path, size and time: saves decoding, and can be deleted at any time."""

import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

import pyarrow as pa

from pairloom.storage.digest import bytes_digest
from pairloom.storage.files import DamagedError
from pairloom.storage.images.config import IngestConfig
from pairloom.storage.images.decoding import decode
from pairloom.storage.images.location import ImageAt
from pairloom.storage.images.stored_image import DecodedImage, RejectedImage
from pairloom.storage.ingestion.addresses import Decoder
from pairloom.storage.ingestion.settling import Picture
from pairloom.storage.parquet import read_parquet, write_parquet
from pairloom.storage.reasons import Reason
from pairloom.storage.schema import IMAGE_FILES
from pairloom.storage.sources.source_row import RejectedRow, SourceRow

logger = logging.getLogger(__name__)

ROWS_AT_ONCE = 20_000
"""Rows held in memory while their images are decoded, for which child processes are started."""

MAX_ATTEMPTS = 10
"""How often a file that may pass is tried, before only another file or another limit has it tried again."""


@dataclass(frozen=True, slots=True)
class _Entry:
    version: str
    length: int | None
    decided_by: str
    max_side: int
    found: Picture | RejectedImage


class ImageFiles:
    """The image files of one pipeline, as its last ingest found them."""

    def __init__(self, path: Path, config: IngestConfig, decoder: Decoder = decode) -> None:
        self._path = path
        self._config = config
        self._decoder = decoder
        self._entries = _read(path)
        self._seen: set[str] = set()
        self._changed = False

    def images(
        self, rows: Iterator[SourceRow | RejectedRow]
    ) -> Iterator[tuple[SourceRow | RejectedRow, Picture | RejectedImage | None, DecodedImage | None]]:
        """Each row with its image, in order, and with what is to be stored of that where it was decoded just now."""
        while batch := list(islice(rows, ROWS_AT_ONCE)):
            known = [self._find(row) if isinstance(row, SourceRow) else None for row in batch]
            fresh = self.decoded(
                [row for row, image in zip(batch, known, strict=True) if isinstance(row, SourceRow) and image is None]
            )
            for row, image in zip(batch, known, strict=True):
                yield (row, image, None) if isinstance(row, RejectedRow) or image is not None else next(fresh)
            assert next(fresh, None) is None, "one image a row"

    def decoded(
        self, rows: Sequence[SourceRow]
    ) -> Iterator[tuple[SourceRow, Picture | RejectedImage, DecodedImage | None]]:
        """The same for rows whose images are decoded whatever is known of them."""
        for row, image in self._decoder([(row, row.image.origin) for row in rows], self._config):
            yield row, self._remember(row, image), image if isinstance(image, DecodedImage) else None

    def forget(self, images: Iterable[ImageAt]) -> None:
        """Have these images decoded when they are met again."""
        for image in images:
            self._changed |= self._entries.pop(image.key, None) is not None

    def save(self, *, unseen: bool) -> None:
        """Write down what is known; of files that no row named since this was opened only where `unseen`."""
        kept = {key: entry for key, entry in self._entries.items() if unseen or key in self._seen}
        if self._changed or len(kept) < len(self._entries):
            write_parquet(
                pa.Table.from_pylist([_row(key, entry) for key, entry in kept.items()], IMAGE_FILES), self._path
            )

    def _find(self, row: SourceRow) -> Picture | RejectedImage | None:
        """What decoding the row's image would give, or None where only decoding can tell."""
        key = row.image.key
        entry = self._entries.get(key)
        if entry is None or entry.version != row.image.version:
            return None
        if isinstance(entry.found, Picture):
            if not _same_at(entry, entry.found, self._config.max_side):
                return None
        elif entry.decided_by != self._config.decided_by or (
            entry.found.may_pass and entry.found.attempts < MAX_ATTEMPTS
        ):
            return None
        self._seen.add(key)
        return entry.found

    def _remember(self, row: SourceRow, image: DecodedImage | RejectedImage) -> Picture | RejectedImage:
        """Take down what decoding gave."""
        key, config = row.image.key, self._config
        before = self._entries.get(key)
        found: Picture | RejectedImage
        if isinstance(image, DecodedImage):
            stored = bytes_digest(image.content)
            found = Picture(image.pixel_hash, image.perceptual_hash, image.width, image.height, stored)
        else:
            found = image
            tried = before is not None and (before.version, before.decided_by) == (row.image.version, config.decided_by)
            if image.may_pass and tried and before and isinstance(before.found, RejectedImage):
                # Another row of tonight may name the same file.
                found = replace(image, attempts=before.found.attempts + (key not in self._seen))
        entry = _Entry(row.image.version, row.image.length, config.decided_by, config.max_side, found)
        if entry != before:
            self._entries[key], self._changed = entry, True
        self._seen.add(key)
        return found


def _same_at(entry: _Entry, picture: Picture, max_side: int) -> bool:
    """Whether what is stored of an image is the same at another `max_side`: never for one that either would shrink."""
    low, high = sorted((entry.max_side, max_side))
    if low == high:
        return True
    if entry.length is None:
        return False
    # Files of up to so many bytes may be stored as they are.
    as_is_at_both, as_is_at_none = entry.length <= 3 * low**2, entry.length > 3 * high**2
    return max(picture.width, picture.height) <= low and (as_is_at_both or as_is_at_none)


def _read(path: Path) -> dict[str, _Entry]:
    if not path.exists():
        return {}
    try:
        return {row["path"]: _entry(row) for batch in read_parquet(path) for row in batch.to_pylist()}
    except (DamagedError, KeyError, ValueError) as error:
        logger.warning("all images are decoded again: %s", error)
        return {}


def _entry(row: dict[str, object]) -> _Entry:
    if row["reason"] is None:
        found: Picture | RejectedImage = Picture(
            **{name: row[name] for name in _PICTURE}  # type: ignore[arg-type] # as `_row` wrote them
        )
    else:
        rejected = {**row, "reason": Reason(str(row["reason"]))}
        found = RejectedImage(**{name: rejected[name] for name in _REJECTED})  # type: ignore[arg-type] # as above
    return _Entry(**{name: row[name] for name in _FILE}, found=found)  # type: ignore[arg-type] # as above


def _row(key: str, entry: _Entry) -> dict[str, object]:
    names = _PICTURE if isinstance(entry.found, Picture) else _REJECTED
    return {
        "path": key,
        **{name: getattr(entry, name) for name in _FILE},
        **{name: getattr(entry.found, name) for name in names},
    }


_FILE = ("version", "length", "decided_by", "max_side")
_PICTURE = ("pixel_hash", "perceptual_hash", "width", "height", "stored_digest")
_REJECTED = ("reason", "message", "transient", "attempts")
