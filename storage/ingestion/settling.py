"""What each row becomes, by tonight's rows and rules alone: pure, so that history can't decide."""

# N = rows

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import numpy as np

from pairloom.storage.digest import digest
from pairloom.storage.images.limits import Limits
from pairloom.storage.images.stored_image import RejectedImage
from pairloom.storage.ingestion.number_set import NumberSet
from pairloom.storage.reasons import Reason
from pairloom.storage.sources.source_row import SourceRow


@dataclass(frozen=True, slots=True)
class Picture:
    """What is known of an image file that was decoded, now or earlier."""

    pixel_hash: str
    perceptual_hash: str
    width: int
    """Of the original, upright, in pixels."""
    height: int
    stored_digest: str
    """Of the bytes that are stored of it."""
    trimmed: bool = False
    """Whether these are of its content box alone."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """What a row would be as an item."""

    item_id: str
    said: int
    """Digest of what the row says; of its id only where that is made of what it says."""
    same: int
    """Digest of what two rows have in common that show one picture under the same texts."""
    content: str
    """Digest of all that is stored of it but its split."""


def candidate(row: SourceRow, picture: Picture) -> Candidate:
    """What `row` would be as an item with this picture."""
    said = said_digest(picture.pixel_hash, list(row.texts), row.group, row.split, row.metadata)
    size = (picture.width, picture.height)
    return Candidate(
        item_id=row.item_id or digest([picture.pixel_hash, row.texts[0]]),
        said=int(said, 16),
        same=same_content(picture.pixel_hash, list(row.texts)),
        content=content_digest(said, picture.stored_digest, size, row.image_path, row.source),
    )


class Settling:
    """Takes the rows of all sources in their order; of rows that can't both be items, the first one is.

    Ids are given by their digests.
    """

    def __init__(self) -> None:
        self._ids, self._sames = NumberSet(), NumberSet()

    def take(self, ids_N: np.ndarray, sames_N: np.ndarray) -> np.ndarray:
        """Which rows are items, bool (N,)."""
        taken_N = self._ids.holds(ids_N) | self._sames.holds(sames_N)
        items_N: np.ndarray = ~(taken_N | _repeated(ids_N) | _repeated(sames_N))
        # What no other row claims is an item at once. The others are looked at one by one.
        ids, sames = set[int](), set[int]()
        for row in np.flatnonzero(~(items_N | taken_N)).tolist():
            if ids_N[row] not in ids and sames_N[row] not in sames:
                items_N[row] = True
                ids.add(ids_N[row])
                sames.add(sames_N[row])
        self.add(ids_N[items_N], sames_N[items_N])
        return items_N

    def add(self, ids_N: np.ndarray, sames_N: np.ndarray) -> None:
        """Take rows that are known to be items."""
        self._ids.add(ids_N)
        self._sames.add(sames_N)

    def holds(self, item_id: int, same: int) -> bool:
        """Whether a row of this id or this `same_content` was taken, whatever became of it then."""
        asked = ((self._ids, item_id), (self._sames, same))
        return any(taken.holds(np.array([number], np.uint64))[0] for taken, number in asked)


def _repeated(values_N: np.ndarray) -> np.ndarray:
    """Which values are those of another row, too, bool (N,)."""
    _, place_N, count = np.unique(values_N, return_inverse=True, return_counts=True)
    repeated_N: np.ndarray = count[place_N] > 1
    return repeated_N


def misfit(width: int, height: int, limits: Limits) -> RejectedImage | None:
    """Why a picture that was decoded under other limits is none under these; in the order and words of decoding."""
    said = f"{width} x {height} pixels"
    if width * height > limits.max_pixels:
        return RejectedImage(Reason.IMAGE_TOO_LARGE, f"{said} are more than {limits.max_pixels} in all")
    if min(width, height) < limits.min_side:
        return RejectedImage(Reason.IMAGE_TOO_SMALL, f"{said}: a side is below {limits.min_side}")
    if limits.max_aspect is not None and max(width, height) > limits.max_aspect * min(width, height):
        times = f"one side is more than {limits.max_aspect:g} times the other"
        return RejectedImage(Reason.IMAGE_TOO_LONG, f"{said}: {times}")
    return None


def misfits(width_N: np.ndarray, height_N: np.ndarray, limits: Limits) -> np.ndarray:
    """Which pictures `misfit` has something to say of, bool (N,)."""
    pixels_N = width_N.astype(np.int64) * height_N
    low_N, high_N = np.minimum(width_N, height_N), np.maximum(width_N, height_N)
    misfit_N: np.ndarray = (pixels_N > limits.max_pixels) | (low_N < limits.min_side)
    if limits.max_aspect is not None:
        misfit_N |= high_N > limits.max_aspect * low_N
    return misfit_N


def same_content(pixel_hash: str, texts: list[str]) -> int:
    """What two rows have in common that show one picture under the same texts."""
    return int(digest([pixel_hash, texts]), 16)


def said_digest(
    pixel_hash: str, texts: list[str], group: str | None, split: str | None, metadata: Mapping[str, Any]
) -> str:
    """Digest of what a row says, its picture included, but for its id."""
    return digest([pixel_hash, texts, group, split, _plain(metadata)])


def content_digest(said: str, stored_digest: str, size: tuple[int, int], path: str, source: str) -> str:
    """Digest of all that is stored of an item but its split; `said` is that of what the row says."""
    return digest([said, stored_digest, *size, path, source])


def _plain(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Metadata as JSON; a column without a value is as good as none."""
    return {
        name: value.isoformat() if isinstance(value, datetime) else value
        for name, value in metadata.items()
        if value is not None
    }
