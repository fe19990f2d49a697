"""What each row becomes, by tonight's rows and rules alone: pure, so that history can't decide."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from pairloom.storage.digest import digest
from pairloom.storage.images.limits import Limits
from pairloom.storage.images.stored_image import RejectedImage
from pairloom.storage.reasons import Outcome, Reason
from pairloom.storage.sources.source_row import RejectedRow, SourceRow


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


@dataclass(frozen=True, slots=True)
class Item:
    """A row that is an item."""

    row: SourceRow
    picture: Picture
    item_id: str
    content: str
    """Digest of all that is stored of it but its split."""


@dataclass(frozen=True, slots=True)
class Rejection:
    """A row that is none."""

    row: SourceRow | RejectedRow
    item_id: str | None
    reason: Reason
    message: str
    attempts: int = 1

    @property
    def outcome(self) -> Outcome:
        """duplicate, filtered or quarantined."""
        return self.reason.outcome


class Settling:
    """Takes the rows of all sources in their order; of rows that can't both be items, the first one is."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._said: dict[str, str] = {}
        self._same: dict[str, str] = {}

    def take(self, row: SourceRow | RejectedRow, image: Picture | RejectedImage | None) -> Item | Rejection:
        """What `row` becomes; `image` is None for a row that was rejected without a look at its image."""
        if isinstance(row, RejectedRow):
            return Rejection(row, row.item_id, row.reason, row.message)
        assert image is not None, "a row that names an image comes with it"
        if isinstance(image, Picture):
            image = misfit(image, self._limits) or image
        if isinstance(image, RejectedImage):
            return Rejection(row, row.item_id, image.reason, image.message, image.attempts)
        item_id = row.item_id or digest([image.pixel_hash, row.texts[0]])
        said = digest([image.pixel_hash, row.texts, row.group, row.split, plain(row.metadata)])
        if self._said.get(item_id) == said:
            return Rejection(row, item_id, Reason.SAME_ITEM, f"same content as item {item_id}")
        if item_id in self._said:
            message = f"an earlier row has the id {item_id}: make the id column unique"
            return Rejection(row, item_id, Reason.ID_REPEATED, message)
        same = same_content(image.pixel_hash, row.texts)
        if same in self._same:
            twin = self._same[same]
            return Rejection(row, item_id, Reason.SAME_IMAGE_AND_TEXTS, f"duplicate of {twin}")
        self._said[item_id] = said
        self._same[same] = item_id
        size = (image.width, image.height)
        return Item(row, image, item_id, content_digest(said, image.stored_digest, size, row.image_path, row.source))

    def holds_content(self, same: str) -> bool:
        """Whether a row of this `same_content` became an item."""
        return same in self._same


def misfit(picture: Picture, limits: Limits) -> RejectedImage | None:
    """Why a picture that was decoded under other limits is none under these; in the order and words of decoding."""
    width, height = picture.width, picture.height
    if width * height > limits.max_pixels:
        return RejectedImage(
            Reason.IMAGE_TOO_LARGE, f"{width} x {height} pixels are more than {limits.max_pixels} in all"
        )
    if min(width, height) < limits.min_side:
        return RejectedImage(Reason.IMAGE_TOO_SMALL, f"{width} x {height} pixels: a side is below {limits.min_side}")
    if limits.max_aspect is not None and max(width, height) > limits.max_aspect * min(width, height):
        aspect = f"one side is more than {limits.max_aspect:g} times the other"
        return RejectedImage(Reason.IMAGE_TOO_LONG, f"{width} x {height} pixels: {aspect}")
    return None


def same_content(pixel_hash: str, texts: tuple[str, ...] | list[str]) -> str:
    """What two rows have in common that show one picture under the same texts."""
    return digest([pixel_hash, texts])


def content_digest(said: str, stored_digest: str, size: tuple[int, int], path: str, source: str) -> str:
    """Digest of all that is stored of an item but its split; `said` is that of what the row says."""
    return digest([said, stored_digest, *size, path, source])


def plain(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Metadata as JSON; a column without a value is as good as none."""
    return {
        name: value.isoformat() if isinstance(value, datetime) else value
        for name, value in metadata.items()
        if value is not None
    }
