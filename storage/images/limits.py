"""What one image is measured against, in the decoding children as well."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """What an image is measured against, in pixels."""

    max_side: int
    min_side: int
    max_pixels: int
    max_aspect: float | None = None
    """How many times its shorter side the longer one may be; not looked at by the children."""
