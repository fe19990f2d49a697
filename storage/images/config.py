"""What `ingest:` of a pipeline says."""

import json
from typing import Literal

from PIL import __version__ as pillow
from pydantic import BaseModel, Field

from pairloom.storage.images.formats import RULES, heif_version
from pairloom.storage.images.limits import Limits
from pairloom.storage.sources.text_rules import TextRules


class IngestConfig(BaseModel, frozen=True, extra="forbid", use_attribute_docstrings=True):
    """How images become what is stored."""

    max_side: int = Field(default=256, ge=8, le=4_096)
    """Longest side stored, in pixels: the size that models are trained at. Larger images are shrunk, once."""
    trim: bool = True
    """Cut pictures on a plain background (icons, drawings, products on white) to what isn't background, and put that
    into the middle of a square with a small margin, before they are shrunk; the images of queries likewise. Pictures
    whose border isn't of one colour, photographs above all, are left as they are."""
    min_side: int = Field(default=16, ge=1)
    """Images with a shorter side than this are filtered."""
    max_pixels: int = Field(default=64_000_000, ge=1)
    """Images whose header promises more pixels are quarantined without being decoded."""
    max_aspect: float | None = Field(default=None, ge=1)
    """Images whose longer side is more than this many times the shorter one are filtered."""
    texts: TextRules = TextRules()
    """Which texts are none."""
    max_per_text: int | None = Field(default=None, ge=1)
    """Most items with the same first text: the first ones in source order stay, later rows are filtered."""
    max_per_domain: int | None = Field(default=None, ge=1)
    """Most items with images of the same domain, where rows name addresses."""
    near_duplicates: Literal["keep", "merge", "drop"] = "keep"
    """What becomes of a picture that resembles an earlier one: nothing, its texts go to that one's item, or it goes.
    Under `merge` and `drop`, what resembles one another is in one split."""
    near_duplicate_bits: int = Field(default=4, ge=0, le=8)
    """How many of 64 bits the perceptual hashes of near-duplicates may differ in."""
    workers: int | None = Field(default=None, ge=1)
    """Decoding processes; without it one per CPU this process may use."""
    timeout_seconds: float = Field(default=20.0, gt=0)
    """Time one image may take."""
    memory_mb: int = Field(default=2_048, ge=512)
    """Address space of each decoding process, in MiB."""

    on_bad_cell: Literal["null", "quarantine"] = "null"
    """What a cell that is not of its kept column's type costs: itself (`null`, counted by column) or its row."""
    part_rows: int = Field(default=5_000, ge=1)
    """Most items in one corpus part."""
    val_fraction: float = Field(default=0.1, ge=0, le=0.5)
    """Share of the groups that are validation items, where the source names no split."""
    test_fraction: float = Field(default=0.1, ge=0, le=0.4)
    """Share of the groups that are held back as test items, where the source names no split."""
    max_removed: float = Field(default=0.2, ge=0, le=1)
    """Where a larger share of a source's items would leave in one night, they stay until `--accept-removals`."""
    max_rejected: float = Field(default=0.5, ge=0, le=1)
    """Where a larger share of all rows seen is quarantined, the night is held: what is served stays."""

    @property
    def limits(self) -> Limits:
        """What a single image is measured against and made to."""
        return Limits(self.max_side, self.min_side, self.max_pixels, self.max_aspect, self.trim)

    @property
    def decided_by(self) -> str:
        """All that decides whether an image is rejected, beside its file; in JSON."""
        limits = (self.max_side, self.min_side, self.max_pixels, self.timeout_seconds, self.memory_mb)
        return json.dumps([*limits, f"Pillow {pillow}", f"pillow-heif {heif_version()}", RULES])
