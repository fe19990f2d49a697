"""What one image is measured against and made to, in the decoding children as well."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """What an image is measured against, in pixels, and whether it is cut."""

    max_side: int
    min_side: int
    max_pixels: int
    max_aspect: float | None = None
    """How many times its shorter side the longer one may be; not looked at by the children."""
    trim: bool = False
    """Whether it is cut to its content box."""
