"""Rows as they are understood: what can become an item once its image is decoded, and what can't."""

from dataclasses import dataclass

from pairloom.storage.digest import digest
from pairloom.storage.images.location import ImageAt
from pairloom.storage.reasons import Outcome, Reason
from pairloom.storage.sources.columns import Metadata


@dataclass(frozen=True)
class SourceRow:
    """One row that can become an item once its image is decoded."""

    source: str
    number: int
    """Line in the caption file, from 1; for a folder the image's place in the sorted listing."""
    item_id: str | None
    image: ImageAt
    image_path: str
    """The image's path as the source wrote it."""
    texts: tuple[str, ...]
    group: str | None
    split: str | None
    metadata: dict[str, Metadata]
    file: str | None = None
    """The file that it stands in, where the source has several."""
    nulled: bool = False
    """Whether a cell of it is null because it is not of its kept column's type."""

    @property
    def fingerprint(self) -> str:
        """Digest of the source's name, what this row says (as `columns` reads it), and the image's version."""
        said = [self.source, self.item_id, self.image_path, self.texts, self.group, self.split, repr(self.metadata)]
        return digest([*said, self.image.version])


@dataclass(frozen=True)
class RejectedRow:
    """One row that cannot."""

    source: str
    number: int
    fingerprint: str
    item_id: str | None
    image_path: str | None
    reason: Reason
    message: str
    file: str | None = None
    """The file that it stands in, where the source has several."""

    @property
    def outcome(self) -> Outcome:
        """`filtered` by a rule of the pipeline, or else `quarantined`."""
        return self.reason.outcome


class UnreadableSourceError(ValueError):
    """Raised where a source as a whole, or what is left of it, can't be read; the others can."""


class RejectedRowError(ValueError):
    """Raised where a row turns out to be none."""

    def __init__(self, reason: Reason, message: str) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message
