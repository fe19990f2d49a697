"""The formats that images are read in, and how Pillow is set for files of unknown origin."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

FORMATS = (
    "AVIF",
    "BMP",
    "DIB",
    "GIF",
    "ICO",
    "JPEG",
    "JPEG2000",
    "PNG",
    "PPM",
    "TGA",
    "TIFF",
    "WEBP",
)
HEIF = "HEIF"
"""Of phones' pictures (`.heic`, `.heif`); read where the extra `heic` is installed."""

RULES = 2
"""Counts what this package lets pass: with another number, files that were rejected are tried again."""

_LONGEST_TEXT = 64 * 2**20
_HEIF_BRANDS = frozenset({b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs"})


@cache
def heif_version() -> str | None:
    """Version of pillow-heif, None where it is not installed. Does not load it."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("pillow-heif")
    except PackageNotFoundError:
        return None


@cache
def readable_formats() -> tuple[str, ...]:
    """The formats that this installation reads, as Pillow names them."""
    try:
        from pillow_heif import register_heif_opener
    except ImportError:
        return FORMATS
    # Decoding is parallel over images already. Files that say no more than `mif1` may be AVIF, which libheif as it
    # comes can't decode: it is asked last.
    register_heif_opener(decode_threads=1)
    return (*FORMATS, HEIF)


def is_heif(beginning: bytes) -> bool:
    """Whether a file's first bytes (64, say) call it HEIC or HEIF: ISO/IEC 23008-12, file type box."""
    length = int.from_bytes(beginning[:4], "big")
    brands = beginning[8:length]
    return beginning[4:8] == b"ftyp" and any(brands[at : at + 4] in _HEIF_BRANDS for at in range(0, len(brands), 4))


@contextmanager
def long_metadata() -> Iterator[None]:
    """Inside, Pillow opens PNG files with texts or profiles of up to 64 MiB each.

    Its own limit is 1 MiB: less than the workflow that an image generator writes into a picture, or a printer's
    profile, and the picture would be refused for them.
    """
    from PIL import PngImagePlugin  # not for those who only ask for settings

    own = PngImagePlugin.MAX_TEXT_CHUNK, PngImagePlugin.MAX_TEXT_MEMORY
    PngImagePlugin.MAX_TEXT_CHUNK, PngImagePlugin.MAX_TEXT_MEMORY = _LONGEST_TEXT, 4 * _LONGEST_TEXT
    try:
        yield
    finally:
        PngImagePlugin.MAX_TEXT_CHUNK, PngImagePlugin.MAX_TEXT_MEMORY = own
