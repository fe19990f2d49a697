"""From an image file to what is stored of it: upright, RGB on white, cut to its content box where that is asked for,
shrunk once; pure, run in children by `images`.

What is decided here, because files leave it open:

- Formats: those of `formats`. Others (vector graphics, PostScript, PDF, animation formats of old games) are unreadable:
  every further decoder is attack surface, and PostScript would start Ghostscript.
- Animations and multi-page files: the first frame or page, as any single-frame reader shows it.
- Transparency: laid on white, whatever colours the transparent pixels claim; fully transparent is a white picture.
- Flat colours, and extreme shapes whose shorter side reaches `min_side`: accepted; they are pictures to somebody.
- Damage: what Pillow decodes is accepted (flipped bits, junk between segments, wrong checksums, bad palette indices),
  what it refuses (cut files) is not; no half-decoded picture is taken.
- Orientation: applied from EXIF or XMP; broken EXIF means upright.
- Colour profiles: ignored, as open_clip, timm and `datasets` ignore them; CMYK is converted without a profile, Lab by
  definition.
- Grey of more than 8 bits, and floating-point grey, is stretched from its smallest to its largest value: what
  cameras and scanners put there rarely fills the range, and nothing would be seen of it. NaN is white.
- Files stored as they are keep their metadata (EXIF with its places and dates, profiles); re-encoded ones lose it.
- A JPEG at least twice too large is decoded at a fraction of its size (Pillow's `draft`, which averages as it decodes;
  still no smaller than it is stored): two to three times as fast, 47 dB from what shrinking the whole gives. Its
  `pixel_hash` is that of the reduced pixels. Where little of it is content, it is decoded again, larger: what is stored
  has as many pixels as there are to be had.
"""

import hashlib
import io
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from math import ceil
from pathlib import Path

import imagehash
import numpy as np
from PIL import Image, UnidentifiedImageError

from pairloom.storage.images.content_box import content_square, framed
from pairloom.storage.images.formats import HEIF, is_heif, long_metadata, readable_formats
from pairloom.storage.images.limits import Limits
from pairloom.storage.images.location import FileSlice
from pairloom.storage.reasons import Outcome, Reason

# H, W = height, width

_LOSSY = frozenset({"AVIF", HEIF, "JPEG", "JPEG2000", "MPO", "WEBP"})
_ORIENTATION = 0x0112
_JPEG_QUALITY = 90
_THUMBNAIL_SIDE = 96


@dataclass(frozen=True)
class DecodedImage:
    """What is stored of one image."""

    content: bytes
    """A JPEG or PNG file, RGB, longest side at most `max_side`."""
    width: int
    """Of the original, upright."""
    height: int
    pixel_hash: str
    """SHA-256, 32 hexadecimal digits, of size and RGB pixels on white before cutting and shrinking."""
    perceptual_hash: str
    """ImageHash's `phash` of the pixels that are stored, 16 hexadecimal digits."""
    thumbnail: bytes
    """A WebP of at most 96 × 96 of the pixels that are stored, before JPEG loses any of them."""
    trimmed: bool = False
    """Whether it was cut to its content box."""


@dataclass(frozen=True)
class RejectedImage:
    """Why there is nothing to store."""

    reason: Reason
    message: str
    transient: bool = False
    """Whether it was the system that refused (no permission, no memory, a failing disk), not the file."""
    attempts: int = 1
    """How often this file was tried under these limits."""

    @property
    def may_pass(self) -> bool:
        """Whether trying again can help though neither the file nor a limit has changed."""
        return self.transient or self.reason in (Reason.IMAGE_TIMEOUT, Reason.IMAGE_CRASHED)

    @property
    def outcome(self) -> Outcome:
        """Too small is the pipeline's rule, most else is the file's fault."""
        return self.reason.outcome


class _UnfitError(Exception):
    def __init__(self, reason: Reason, message: str, *, transient: bool = False) -> None:
        super().__init__(message)
        self.rejected = RejectedImage(reason, message, transient)


def decode_file(path: Path, limits: Limits) -> DecodedImage | RejectedImage:
    """What to store of the image at `path`, or why not. Costs up to several times its pixels in memory."""
    return _decoded(lambda: _content(path, limits) or path, limits)


def decode_slice(part: FileSlice, limits: Limits) -> DecodedImage | RejectedImage:
    """The same for an image inside a file."""
    return _decoded(lambda: _read_slice(part), limits)


def decode_bytes(content: bytes, limits: Limits) -> DecodedImage | RejectedImage:
    """The same for the bytes of an image file."""
    return _decoded(lambda: content, limits)


def _decoded(read: Callable[[], Path | bytes], limits: Limits) -> DecodedImage | RejectedImage:
    try:
        found = read()
        original = found if isinstance(found, bytes) and len(found) <= _as_is(limits) else None
        source = io.BytesIO(found) if isinstance(found, bytes) else found
        upright, kept = _normalised(source, limits)
        trimmed = _trimmed(upright, source, limits)
        small = shrunk(upright.pixels, limits.max_side) if trimmed is None else trimmed
        unchanged = kept and small is upright.pixels
        content = original if unchanged and original is not None else _encoded(small, upright.lossy)
        return DecodedImage(
            content=content,
            width=upright.width,
            height=upright.height,
            pixel_hash=_pixel_hash(upright.pixels),
            perceptual_hash=str(imagehash.phash(small)),
            thumbnail=_small(small),
            trimmed=trimmed is not None,
        )
    except _UnfitError as error:
        return error.rejected
    except MemoryError:
        return RejectedImage(Reason.IMAGE_TOO_LARGE, "needs more memory than `memory_mb` allows", transient=True)


def open_as_stored(path: Path, limits: Limits) -> Image.Image:
    """The pixels that are stored of the image at `path`, before JPEG loses any; ValueError says why there are none."""
    try:
        upright, _ = _normalised(path, limits)
        trimmed = _trimmed(upright, path, limits)
    except _UnfitError as error:
        raise ValueError(error.rejected.message) from error
    return shrunk(upright.pixels, limits.max_side) if trimmed is None else trimmed


def as_stored(image: Image.Image, limits: Limits) -> Image.Image:
    """The same of a picture in memory. One that was made so is left as it is."""
    pixels = _turned(_rgb_on_white(image), _orientation(image))
    square = content_square(pixels) if limits.trim else None
    return shrunk(pixels, limits.max_side) if square is None else framed(pixels, square, limits.max_side)


def thumbnail(content: bytes) -> bytes:
    """The thumbnail of an image as it is stored, for parts that have none: RGB, upright."""
    with Image.open(io.BytesIO(content)) as opened:
        return _small(opened.convert("RGB"))


def shrunk(image: Image.Image, max_side: int) -> Image.Image:
    """`image` with its longest side at most `max_side`, antialiased; the same object where it is small enough."""
    longest = max(image.size)
    if longest <= max_side:
        return image
    width, height = (max(1, round(side * max_side / longest)) for side in image.size)
    return image.resize((width, height), Image.Resampling.BICUBIC, reducing_gap=3.0)


def _trimmed(upright: "_Upright", source: Path | io.BytesIO, limits: Limits) -> Image.Image | None:
    """The content of a picture in its square; None where it is not to be cut, or there is nothing to cut."""
    pixels = upright.pixels
    square = content_square(pixels) if limits.trim else None
    if square is not None and square.side < limits.max_side and pixels.width < upright.width:
        larger = ceil(limits.max_side * max(pixels.size) / square.side)
        pixels = _normalised(source, replace(limits, max_side=larger))[0].pixels
        square = content_square(pixels)
    return None if square is None else framed(pixels, square, limits.max_side)


def _small(image: Image.Image) -> bytes:
    small, stream = image.copy(), io.BytesIO()
    # Lanczos takes four times as long for what a thumbnail hardly shows.
    small.thumbnail((_THUMBNAIL_SIDE, _THUMBNAIL_SIDE), Image.Resampling.HAMMING)
    small.info.clear()
    small.save(stream, "WEBP", quality=80, method=2)  # 4 takes twice the time for 2 % fewer bytes
    return stream.getvalue()


def _pixel_hash(image: Image.Image) -> str:
    hashed = hashlib.sha256(b"%d %d " % image.size)
    hashed.update(image.tobytes())
    return hashed.hexdigest()[:32]


@dataclass(frozen=True)
class _Upright:
    pixels: Image.Image
    width: int
    height: int
    lossy: bool


def _as_is(limits: Limits) -> int:
    """Bytes of the largest file that may be stored as it is: no more than raw pixels would need."""
    return 3 * limits.max_side**2


def _read_slice(part: FileSlice) -> bytes:
    with _reading(part.path):
        size, end = _size(part.path), part.offset + part.length
        if not 0 <= part.offset <= end <= size:
            raise _UnfitError(
                Reason.IMAGE_UNREADABLE, f"{part.path} has {size} bytes, none from {part.offset} to {end}"
            )
        with part.path.open("rb") as stream:
            stream.seek(part.offset)
            return stream.read(part.length)


def _content(path: Path, limits: Limits) -> bytes | None:
    """The file's bytes where they may be stored as they are."""
    with _reading(path):
        return path.read_bytes() if _size(path) <= _as_is(limits) else None


def _size(path: Path) -> int:
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        raise _UnfitError(Reason.IMAGE_UNREADABLE, f"{path} is not a file")
    return status.st_size


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError as error:
        raise _UnfitError(Reason.IMAGE_NOT_FOUND, f"{path} does not exist") from error
    except ValueError as error:
        raise _UnfitError(Reason.IMAGE_NOT_FOUND, f"{str(path)!r} is no path: {error}") from error
    except OSError as error:
        raise _UnfitError(
            Reason.IMAGE_UNREADABLE, f"{path} cannot be read: {error.strerror}", transient=True
        ) from error


def _normalised(source: Path | io.BytesIO, limits: Limits) -> tuple[_Upright, bool]:
    """The picture, and whether its file may be stored as it is."""
    try:
        try:
            return _opened(source, limits)
        except ValueError:
            # Pillow's word on metadata that it finds too long.
            with long_metadata():
                upright, _ = _opened(source, limits)
            # Readers of the corpus have Pillow's limits.
            return upright, False
    except Image.DecompressionBombError as error:
        raise _UnfitError(Reason.IMAGE_TOO_LARGE, str(error)) from error
    except (_UnfitError, MemoryError):
        raise
    except UnidentifiedImageError as error:
        raise _UnfitError(Reason.IMAGE_UNREADABLE, _no_picture(source)) from error
    except Exception as error:  # decoders of damaged files raise anything: IndexError, struct.error, SyntaxError
        # Pillow raises OSError as well, but only the system numbers its own.
        transient = isinstance(error, OSError) and error.errno is not None
        raise _UnfitError(
            Reason.IMAGE_UNREADABLE, f"{type(error).__name__}: {error}"[:300], transient=transient
        ) from error


def _opened(source: Path | io.BytesIO, limits: Limits) -> tuple[_Upright, bool]:
    with Image.open(source, formats=readable_formats()) as image:
        width, height = image.size
        if width * height > limits.max_pixels:
            raise _UnfitError(
                Reason.IMAGE_TOO_LARGE, f"{width} x {height} pixels are more than {limits.max_pixels} in all"
            )
        if min(width, height) < limits.min_side:
            raise _UnfitError(Reason.IMAGE_TOO_SMALL, f"{width} x {height} pixels: a side is below {limits.min_side}")
        form = image.format
        if form in ("JPEG", "MPO") and max(width, height) >= 2 * limits.max_side:
            scale = limits.max_side / max(width, height)
            image.draft(None, (int(width * scale), int(height * scale)))
        image.load()
        orientation = _orientation(image)
        kept = (
            form in ("JPEG", "PNG")
            and image.size == (width, height)  # not decoded at a fraction of it
            and image.mode == "RGB"
            and orientation == 1
            and not image.has_transparency_data
            and getattr(image, "n_frames", 1) == 1
        )
        pixels = _turned(_rgb_on_white(image), orientation)
        if orientation >= 5:
            width, height = height, width
        return _Upright(pixels, width, height, form in _LOSSY), kept


def _no_picture(source: Path | io.BytesIO) -> str:
    with source.open("rb") if isinstance(source, Path) else io.BytesIO(source.getbuffer()) as stream:
        beginning = stream.read(64)
    if HEIF not in readable_formats() and is_heif(beginning):
        return "HEIC pictures need the extra `heic`: pip install 'pairloom[heic]'"
    return f"no picture in a format that is read ({', '.join(readable_formats())})"


_TRANSPOSED = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def _orientation(image: Image.Image) -> int:
    try:
        found = image.getexif().get(_ORIENTATION, 1)
    except Exception:  # damaged EXIF raises anything; the picture is still good
        return 1
    return found if found in _TRANSPOSED else 1


def _turned(image: Image.Image, orientation: int) -> Image.Image:
    return image if orientation == 1 else image.transpose(_TRANSPOSED[orientation])


def _rgb_on_white(image: Image.Image) -> Image.Image:
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if image.mode == "F" or image.mode.startswith("I"):
        return _grey(image).convert("RGB")
    if image.mode == "LAB":
        return _from_lab(image)
    if image.has_transparency_data:
        colours = image.convert("RGBA")
        white = Image.new("RGBA", colours.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, colours).convert("RGB")
    return image.convert("RGB")


def _grey(image: Image.Image) -> Image.Image:
    """8-bit grey of 16-bit integer, 32-bit integer or floating-point grey."""
    values_HW = np.asarray(image).astype(np.float64)
    seen_HW = np.isfinite(values_HW)
    transparent = image.info.get("transparency")
    if isinstance(transparent, int):
        seen_HW &= values_HW != transparent
    low = float(values_HW.min(where=seen_HW, initial=np.inf))
    high = float(values_HW.max(where=seen_HW, initial=-np.inf))
    if low == high:
        low = 0.0
    scaled_HW = np.where(seen_HW, (values_HW - low) * (255 / (high - low or 1.0)), 255)
    return Image.fromarray(np.rint(np.clip(scaled_HW, 0, 255)).astype(np.uint8))


def _from_lab(image: Image.Image) -> Image.Image:
    from PIL import ImageCms  # LittleCMS, loaded for the rare Lab file only

    lab = ImageCms.createProfile("LAB")
    converted = ImageCms.profileToProfile(image, lab, ImageCms.createProfile("sRGB"), outputMode="RGB")
    assert converted is not None
    return converted


def _encoded(image: Image.Image, lossy: bool) -> bytes:
    stream, bare = io.BytesIO(), image.copy()
    # Pillow would write the original's profile and comment.
    bare.info.clear()
    if lossy:
        bare.save(stream, "JPEG", quality=_JPEG_QUALITY)
    else:
        bare.save(stream, "PNG", compress_level=4)
    return stream.getvalue()
