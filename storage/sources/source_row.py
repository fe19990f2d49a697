"""Rows as they are understood: what can become an item once its image is decoded, and what can't."""

from collections import Counter
from dataclasses import dataclass, field
from typing import Literal

from pairloom.storage.digest import digest
from pairloom.storage.images.location import ImageAt
from pairloom.storage.sources.columns import Metadata

Outcome = Literal["quarantined", "filtered"]


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

    @property
    def fingerprint(self) -> str:
        """Digest of the source's name, what this row says (as `columns` reads it), and the image's version."""
        said = [self.source, self.item_id, self.image_path, self.texts, self.group, self.split, repr(self.metadata)]
        return digest([*said, self.image.version])


@dataclass(frozen=True)
class RejectedRow:
    """One row that cannot: `quarantined`, or `filtered` for what it is.

    Reasons: malformed-row, id-missing, image-missing, image-not-found, image-outside-base, text-empty, split-unknown,
    metadata-type, where-undecided, text-without-image, linked-folder, source-unreadable; filtered: where, not-an-image,
    ignored-file, linked-folder.
    """

    source: str
    number: int
    fingerprint: str
    item_id: str | None
    image_path: str | None
    outcome: Outcome
    reason: str
    message: str
    file: str | None = None
    """The file that it stands in, where the source has several."""


@dataclass
class Notes:
    """What reading sources tells beside their rows."""

    bad_cells: Counter[str] = field(default_factory=Counter)
    """Cells that are null because they are not of their kept column's type, by its name."""
    hints: list[str] = field(default_factory=list)
    """What is probably wrong with a source as a whole, though it can be read."""


class UnreadableSourceError(ValueError):
    """Raised where a source as a whole, or what is left of it, can't be read; the others can."""


class RejectedRowError(ValueError):
    """Raised where a row turns out to be none."""

    def __init__(self, reason: str, message: str, outcome: Outcome = "quarantined") -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message
        self.outcome = outcome
