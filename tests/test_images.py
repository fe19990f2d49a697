"""Images: right pixels from every kind of file, and a bad file that costs only itself."""

import hashlib
import io
import json
import os
import struct
import subprocess
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import imagehash
import numpy as np
import psutil
import pytest
from PIL import Image, ImageOps

import pairloom
from pairloom.storage.images.config import IngestConfig
from pairloom.storage.images.decoding import decode, open_query_image
from pairloom.storage.images.location import FileSlice, Origin
from pairloom.storage.images.stored_image import DecodedImage, RejectedImage, decode_bytes, decode_file, thumbnail
from pairloom.storage.sources.folder import folder_rows

DATA = Path(__file__).parents[1].parent / "shared" / "data"
NASTY = DATA / "nasty" / "index.jsonl"
CONFIG = IngestConfig(workers=1)

pytestmark = pytest.mark.usefixtures("cold_decoders")

POLICY_REJECTED = {
    "multipage.tiff": "image-too-small",
    "jfif_unit_cm.jpg": "image-too-small",
    "tga__common__1x1_l.png": "image-too-small",
    "dev_strip_3x3000.png": "image-too-small",
    "dev_big_flat_12000x12000.png": "image-too-large",
}
"""Files of the `policy` kind that are not ingested; see `storage.images.stored_image` for the rules."""

needs_data = pytest.mark.skipif(not DATA.is_dir(), reason="needs the development bundle")


def decode_one(path: Path, config: IngestConfig = CONFIG) -> DecodedImage | RejectedImage:
    ((_, found),) = decode([(None, path)], config)
    return found


def decoded(path: Path, config: IngestConfig = CONFIG) -> DecodedImage:
    """As a child does it, without one."""
    found = decode_file(path, config.limits)
    assert isinstance(found, DecodedImage), found
    return found


def stored_pixels(image: DecodedImage) -> np.ndarray:
    with Image.open(io.BytesIO(image.content)) as stored:
        assert stored.mode == "RGB"
        assert stored.format in ("JPEG", "PNG")
        return np.asarray(stored).astype(float)


def gradient(mode: str = "RGB", size: tuple[int, int] = (40, 30)) -> Image.Image:
    ramp = np.linspace(0, 255, size[0] * size[1] * 3).reshape(size[1], size[0], 3).astype(np.uint8)
    return Image.fromarray(ramp).convert(mode)


@pytest.fixture(scope="module")
def nasty() -> dict[str, tuple[str, DecodedImage | RejectedImage]]:
    lines = [json.loads(line) for line in NASTY.read_text().splitlines()]
    expected = {line["file"]: line["expected"] for line in lines}
    found = decode(((name, DATA / name) for name in expected), CONFIG)
    return {name: (expected[name], image) for name, image in found}


@needs_data
def test_every_nasty_file_ends_as_it_should(nasty: dict[str, tuple[str, DecodedImage | RejectedImage]]) -> None:
    wrong = []
    for name, (expected, image) in nasty.items():
        short = Path(name).name
        accepted = isinstance(image, DecodedImage)
        wanted = expected == "accept" or (expected == "policy" and short not in POLICY_REJECTED)
        if accepted != wanted:
            wrong.append((name, image))
        if isinstance(image, RejectedImage) and expected == "policy":
            assert image.reason == POLICY_REJECTED[short]
        if isinstance(image, RejectedImage):
            assert image.reason in ("image-unreadable", "image-too-large", "image-too-small")
            assert "\n" not in image.message
        else:
            height, width, _ = stored_pixels(image).shape
            if image.trimmed:
                assert width == height <= 256
            else:
                assert max(width, height) == min(256, max(image.width, image.height))
    assert not wrong


@needs_data
@pytest.mark.parametrize(
    "name",
    [
        *("hopper_orientation_2.jpg", "hopper_orientation_3.jpg", "hopper_orientation_6.jpg", "hopper.Lab.tif"),
        *("hopper_16bit.pgm", "avif__hopper.avif"),
    ],
)
def test_one_portrait_in_many_forms_has_one_look(
    nasty: dict[str, tuple[str, DecodedImage | RejectedImage]], name: str
) -> None:
    _, image = nasty[f"nasty/files/{name}"]
    _, reference = nasty["nasty/files/hopper_orientation_2.jpg"]
    assert isinstance(image, DecodedImage)
    assert isinstance(reference, DecodedImage)
    difference = np.abs(stored_pixels(image).mean(2) - stored_pixels(reference).mean(2)).mean()
    assert difference < 8


@needs_data
@pytest.mark.parametrize("name", ["dev_cmyk.jpg", "no_extension", "dev_webp_named.jpg", "dev_progressive.jpg"])
def test_one_photograph_in_many_formats_has_one_look(
    nasty: dict[str, tuple[str, DecodedImage | RejectedImage]], name: str
) -> None:
    _, image = nasty[f"nasty/files/{name}"]
    _, reference = nasty["nasty/files/dev_UPPER.JPG"]
    assert isinstance(image, DecodedImage)
    assert isinstance(reference, DecodedImage)
    assert np.abs(stored_pixels(image).mean(2) - stored_pixels(reference).mean(2)).mean() < 8
    assert image.perceptual_hash == reference.perceptual_hash


@needs_data
def test_deep_grey_can_be_seen(nasty: dict[str, tuple[str, DecodedImage | RejectedImage]]) -> None:
    for name in ("16bit.cropped.tif", "12bit.cropped.tif", "10ct_32bit_128.tiff", "i_trns.png"):
        _, image = nasty[f"nasty/files/{name}"]
        assert isinstance(image, DecodedImage)
        assert np.ptp(stored_pixels(image)) == 255


def test_floating_point_grey_survives_nan(tmp_path: Path) -> None:
    values = np.linspace(-2, 2, 400, dtype=np.float32).reshape(20, 20)
    values[0, 0], values[0, 1] = np.nan, np.inf
    Image.fromarray(values).save(tmp_path / "a.tiff")
    found = stored_pixels(decoded(tmp_path / "a.tiff"))[..., 0]
    assert (found[0, 0], found[0, 1], found[0, 2], found[19, 19]) == (255, 255, 0, 255)
    for flat, shown in ((0.0, 0), (5.0, 255), (np.nan, 255)):
        Image.fromarray(np.full((20, 20), flat, np.float32)).save(tmp_path / "a.tiff")
        assert set(stored_pixels(decoded(tmp_path / "a.tiff")).ravel()) == {shown}


@pytest.mark.parametrize("mode", ["1", "L", "P", "LA", "RGBA", "CMYK", "YCbCr", "LAB", "I;16", "I", "F"])
def test_every_mode_becomes_rgb(tmp_path: Path, mode: str) -> None:
    path = tmp_path / "image.tiff"
    image = Image.new("LAB", (40, 30), (128, 128, 128)) if mode == "LAB" else gradient().convert(mode)
    image.save(path)
    found = stored_pixels(decoded(path))
    if mode == "LAB":
        assert np.abs(found - 119).max() <= 2  # L* = 50 is sRGB 119
    else:
        # Two levels, or 256 colours, are what dithering and the palette leave of the picture.
        assert np.abs(found.mean((0, 1)) - np.asarray(gradient()).mean((0, 1))).max() < (30 if mode == "P" else 3)


def test_transparency_shows_white(tmp_path: Path) -> None:
    red = Image.new("RGBA", (32, 32), (255, 0, 0, 0))
    red.paste((0, 0, 255, 128), (0, 0, 16, 32))
    red.save(tmp_path / "soft.png")
    palette = Image.new("P", (32, 32), 0)
    palette.putpalette([255, 0, 0, 0, 0, 255])
    palette.paste(1, (0, 0, 16, 32))
    palette.save(tmp_path / "palette.png", transparency=0)
    grey = Image.new("L", (32, 32), 7)
    grey.paste(50, (0, 0, 16, 32))
    grey.save(tmp_path / "grey.png", transparency=7)
    Image.new("RGB", (32, 32), (1, 2, 3)).save(tmp_path / "colour.png", transparency=(1, 2, 3))
    for name, left in (("soft", (127, 127, 255)), ("palette", (0, 0, 255)), ("grey", (50, 50, 50))):
        values = stored_pixels(decoded(tmp_path / f"{name}.png"))
        assert tuple(values[5, 25]) == (255, 255, 255), name
        assert np.abs(values[5, 5] - left).max() <= 1, name
    assert stored_pixels(decoded(tmp_path / "colour.png")).min() == 255


def test_good_files_are_stored_as_they_are_and_others_again(tmp_path: Path) -> None:
    def stored(name: str, image: Image.Image, **options: Any) -> tuple[bool, str]:
        path = tmp_path / name
        image.save(path, **options)
        found = decoded(path, IngestConfig(workers=1, max_side=64))
        return found.content == path.read_bytes(), found.content[1:4].decode("latin-1")

    exif = Image.Exif()
    exif[0x0112] = 6
    assert stored("a.jpg", gradient()) == (True, "\xd8\xff\xe0")
    assert stored("a.png", gradient()) == (True, "PNG")
    assert stored("turned.jpg", gradient(), exif=exif) == (False, "\xd8\xff\xe0")
    assert stored("palette.png", gradient("P")) == (False, "PNG")
    assert stored("large.jpg", gradient(size=(65, 20))) == (False, "\xd8\xff\xe0")
    assert stored("lossless.bmp", gradient()) == (False, "PNG")
    assert stored("lossy.webp", gradient()) == (False, "\xd8\xff\xe0")
    assert stored("ballast.png", gradient(), exif=b"Exif\0\0" + bytes(20_000)) == (False, "PNG")


def test_an_image_is_turned_and_shrunk_as_the_plain_way_does(tmp_path: Path) -> None:
    exif = Image.Exif()
    for orientation in range(1, 9):
        exif[0x0112] = orientation
        path = tmp_path / f"{orientation}.png"
        gradient(size=(400, 200)).save(path, exif=exif)
        found = decoded(path, IngestConfig(workers=1, max_side=50))
        plain = ImageOps.exif_transpose(Image.open(path))
        assert (found.width, found.height) == plain.size
        small = np.asarray(plain.resize((plain.width // 8, plain.height // 8), Image.Resampling.BOX)).astype(float)
        assert np.abs(stored_pixels(found) - small).mean() < 3


def test_hashes_are_those_of_the_pixels(tmp_path: Path) -> None:
    image = gradient(size=(90, 60))
    image.save(tmp_path / "a.png")
    image.save(tmp_path / "b.bmp")
    first, second = decoded(tmp_path / "a.png"), decoded(tmp_path / "b.bmp", IngestConfig(workers=1, max_side=32))
    assert first.pixel_hash == second.pixel_hash == hashlib.sha256(b"90 60 " + image.tobytes()).hexdigest()[:32]
    assert first.perceptual_hash == str(imagehash.phash(image))
    image.putpixel((0, 0), (9, 9, 9))
    image.save(tmp_path / "a.png")
    assert decoded(tmp_path / "a.png").pixel_hash != first.pixel_hash


def test_a_large_jpeg_decoded_small_looks_the_same(tmp_path: Path) -> None:
    waves = np.sin(np.linspace(0, 60, 1_600))[None, :] * np.cos(np.linspace(0, 40, 1_200))[:, None]
    image = Image.fromarray((127 + 100 * waves).astype(np.uint8)).convert("RGB")
    image.save(tmp_path / "large.jpg", quality=95)
    found = decoded(tmp_path / "large.jpg", IngestConfig(workers=1, max_side=128))
    plain = np.asarray(image.resize((128, 96), Image.Resampling.BICUBIC)).astype(float)
    assert (found.width, found.height) == (1_600, 1_200)
    assert np.abs(stored_pixels(found) - plain).mean() < 2


def test_what_is_not_there_or_no_file_is_told_apart(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "text.png").write_text("not a picture")
    (tmp_path / "empty.png").touch()
    names = ["gone.png", "nul\0.png", "n" * 300, "pipe.png", ".", "text.png", "empty.png"]
    reasons = [
        image.reason
        for _, image in decode(((name, tmp_path / name) for name in names), CONFIG)
        if isinstance(image, RejectedImage)
    ]
    assert reasons == ["image-not-found"] * 2 + ["image-unreadable"] * 5


def test_sizes_are_checked_from_the_header(tmp_path: Path) -> None:
    gradient(size=(100, 20)).save(tmp_path / "a.png")
    for config, reason, outcome in (
        (IngestConfig(workers=1, min_side=21), "image-too-small", "filtered"),
        (IngestConfig(workers=1, max_pixels=1_999), "image-too-large", "quarantined"),
    ):
        found = decode_one(tmp_path / "a.png", config)
        assert isinstance(found, RejectedImage)
        assert (found.reason, found.outcome) == (reason, outcome)


def test_an_image_that_needs_more_memory_than_allowed_costs_only_itself(tmp_path: Path) -> None:
    Image.new("1", (40_000, 30_000)).save(tmp_path / "huge.png")
    gradient().save(tmp_path / "good.png")
    config = IngestConfig(workers=1, max_pixels=2_000_000_000, memory_mb=1_024)
    names = ["good.png", "huge.png", "good.png"]
    found = [image for _, image in decode(((name, tmp_path / name) for name in names), config)]
    assert isinstance(found[1], RejectedImage)
    assert found[1].reason == "image-too-large"
    assert found[0] == found[2]
    assert isinstance(found[0], DecodedImage)


@pytest.fixture
def treacherous(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of images, some of which make the decoding process die or hang, by a PIL that does so at their names."""
    (tmp_path / "sitecustomize.py").write_text(
        "import os, signal, time\n"
        "import PIL.Image\n"
        "opened = PIL.Image.open\n"
        "def open(file, *rest, **options):\n"
        "    size = len(file.getbuffer()) % 10 if hasattr(file, 'getbuffer') else 0\n"
        "    if size == 1: os.kill(os.getpid(), signal.SIGSEGV)\n"
        "    if size == 2: time.sleep(1_000)\n"
        "    if size == 3: os._exit(0)\n"
        "    return opened(file, *rest, **options)\n"
        "PIL.Image.open = open\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    for number in range(40):
        stream = io.BytesIO()
        gradient(size=(20 + number, 20)).save(stream, "JPEG")
        content = stream.getvalue()
        wanted = {7: 1, 8: 1, 20: 2, 33: 3}.get(number, 0)
        ballast = (wanted - len(content)) % 10
        (tmp_path / f"{number:02}.jpg").write_bytes(content + bytes(ballast))
    return tmp_path


@pytest.mark.parametrize("workers", [1, 2])
def test_a_dead_or_hanging_child_costs_only_the_image_that_did_it(treacherous: Path, workers: int) -> None:
    paths = sorted(treacherous.glob("*.jpg"))
    config = IngestConfig(workers=workers, timeout_seconds=5)
    found = list(decode(enumerate(paths), config))
    assert [number for number, _ in found] == list(range(40))
    rejected = {number: image.reason for number, image in found if isinstance(image, RejectedImage)}
    assert rejected == {7: "image-crashed", 8: "image-crashed", 20: "image-timeout", 33: "image-crashed"}
    assert all(image.width == 20 + number for number, image in found if isinstance(image, DecodedImage))


def test_leaving_early_ends_the_children(tmp_path: Path) -> None:
    gradient().save(tmp_path / "a.png")

    def endless() -> Iterator[tuple[int, Path]]:
        number = 0
        while True:
            yield number, tmp_path / "a.png"
            number += 1

    before = children()
    results = decode(endless(), IngestConfig(workers=2))
    assert next(results)[0] == 0
    assert children() != before
    results.close()  # type: ignore[attr-defined] # a generator, promised as an iterator only
    assert children() == before


def children() -> set[psutil.Process]:
    """This process's children, whichever thread started them."""
    return set(psutil.Process().children())


def test_a_child_imports_nothing_heavy_and_not_the_main_module(tmp_path: Path) -> None:
    gradient().save(tmp_path / "a.png")
    (tmp_path / "main.py").write_text(
        "import sys\n"
        "from pathlib import Path\n"
        "assert __name__ == '__main__', 'the main module was imported by a child'\n"
        "from pairloom.storage.images.decoding import IngestConfig, decode\n"
        "print(list(decode([(1, Path(sys.argv[1]))], IngestConfig(workers=1)))[0][1].width)\n"
    )
    root = str(Path(pairloom.__file__).parents[1])
    done = subprocess.run(
        [sys.executable, tmp_path / "main.py", tmp_path / "a.png"],
        env={**os.environ, "PYTHONPATH": root},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout.strip()) == (0, "40"), done.stderr
    code = (
        "import sys, pairloom.storage.images.worker;"
        "sys.exit(bool({'torch', 'prefect', 'pyarrow', 'pandas', 'duckdb', 'pydantic'} & set(sys.modules)))"
    )
    assert (
        subprocess.run([sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": root}, check=False).returncode
        == 0
    )


def test_a_child_gets_no_secrets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hunter2")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    (tmp_path / "sitecustomize.py").write_text(
        f"import os, pathlib; pathlib.Path({str(tmp_path / 'seen')!r}).write_text(repr(dict(os.environ)))"
    )
    decode_one(tmp_path / "gone.png")
    assert "hunter2" not in (tmp_path / "seen").read_text()


def test_a_query_image_is_made_like_the_stored_ones(tmp_path: Path) -> None:
    image = Image.new("RGBA", (600, 300), (0, 0, 0, 0))
    image.save(tmp_path / "a.png")
    found = open_query_image(tmp_path / "a.png", CONFIG)
    assert (found.mode, found.size, found.getextrema()) == ("RGB", (256, 128), ((255, 255),) * 3)
    with pytest.raises(ValueError, match=r"image .*gone\.png: there is no such file"):
        open_query_image(tmp_path / "gone.png", CONFIG)
    (tmp_path / "bad.png").write_text("no picture")
    with pytest.raises(ValueError, match=r"image .*bad\.png: no picture in a format") as raised:
        open_query_image(tmp_path / "bad.png", CONFIG)
    assert "\n" not in str(raised.value)


def encoded(image: Image.Image, form: str, **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, form, **options)
    return stream.getvalue()


@pytest.mark.parametrize(
    ("suffix", "form", "options", "error"),
    [
        (".avif", "AVIF", {"quality": 95}, 8),
        (".bmp", "BMP", {}, 0),
        (".dib", "DIB", {}, 0),
        (".gif", "GIF", {}, 8),
        (".jfif", "JPEG", {"quality": 95}, 8),
        (".jp2", "JPEG2000", {}, 8),
        (".j2k", "JPEG2000", {"no_jp2": True}, 8),
        (".jpe", "JPEG", {"quality": 95}, 8),
        (".jpg", "JPEG", {"quality": 95}, 8),
        (".png", "PNG", {}, 0),
        (".ppm", "PPM", {}, 0),
        (".tga", "TGA", {}, 0),
        (".tiff", "TIFF", {"compression": "tiff_lzw"}, 0),
        (".tif", "TIFF", {}, 0),
        (".webp", "WEBP", {"lossless": True}, 8),
    ],
)
def test_every_format_is_a_row_of_a_folder_and_has_its_pixels(
    tmp_path: Path, suffix: str, form: str, options: dict[str, Any], error: float
) -> None:
    image = gradient()
    (tmp_path / f"a{suffix}").write_bytes(encoded(image, form, **options))
    assert [row.values()["image"] for row in folder_rows(tmp_path)] == [f"a{suffix}"]
    found = decode_one(tmp_path / f"a{suffix}")
    assert isinstance(found, DecodedImage), found
    assert np.abs(stored_pixels(found) - np.asarray(image)).mean() <= error


def heic(image: Image.Image, **options: Any) -> bytes:
    """A file as phones write it."""
    pillow_heif = pytest.importorskip("pillow_heif", reason="the extra heic is not installed")
    pillow_heif.register_heif_opener()
    return encoded(image, "HEIF", **options)


@pytest.mark.parametrize(("suffix", "brand"), [(".heic", b"heic"), (".heif", b"mif1"), (".HIF", b"heix")])
def test_pictures_of_phones_are_read_with_the_extra(tmp_path: Path, suffix: str, brand: bytes) -> None:
    content = heic(gradient(), quality=95)
    (tmp_path / f"a{suffix}").write_bytes(content[:8] + brand + content[12:])
    assert [row.values()["image"] for row in folder_rows(tmp_path)] == [f"a{suffix}"]
    found = decode_one(tmp_path / f"a{suffix}")
    assert isinstance(found, DecodedImage), found
    assert np.abs(stored_pixels(found) - np.asarray(gradient())).mean() < 8
    assert np.abs(np.asarray(open_query_image(tmp_path / f"a{suffix}", CONFIG)).astype(float) - gradient()).mean() < 8


def test_a_picture_of_a_phone_is_turned_once(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    (tmp_path / "a.heic").write_bytes(heic(gradient(), quality=95, exif=exif.tobytes()))
    found = decode_one(tmp_path / "a.heic")
    assert isinstance(found, DecodedImage), found
    assert (found.width, found.height) == (30, 40)
    turned = np.asarray(gradient().transpose(Image.Transpose.ROTATE_270)).astype(float)
    assert np.abs(stored_pixels(found) - turned).mean() < 8


def test_without_the_extra_a_picture_of_a_phone_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.heic").write_bytes(heic(gradient()))
    (tmp_path / "a.avif").write_bytes(encoded(gradient(), "AVIF")[:60])
    (tmp_path / "sitecustomize.py").write_text("import sys; sys.modules['pillow_heif'] = None")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    named, other = decode_one(tmp_path / "a.heic"), decode_one(tmp_path / "a.avif")
    assert isinstance(named, RejectedImage)
    assert (named.reason, named.outcome) == ("image-unreadable", "quarantined")
    assert "pip install 'pairloom[heic]'" in named.message
    assert isinstance(other, RejectedImage)
    assert "heic" not in other.message
    ours = decode_bytes((tmp_path / "a.heic").read_bytes()[:12], CONFIG.limits)
    assert isinstance(ours, RejectedImage)
    assert "pip install" not in ours.message


NOISE = np.random.default_rng(0).integers(32, 127, 3_000_000, np.uint8).tobytes()


def png(chunk: bytes, content: bytes, *, behind: bool = False) -> bytes:
    """A PNG with one more chunk, before or behind its pixels."""
    plain = encoded(gradient(), "PNG")
    whole = struct.pack(">I", len(content)) + chunk + content + struct.pack(">I", zlib.crc32(chunk + content))
    place = plain.index(b"IEND") - 4 if behind else plain.index(b"IDAT") - 4
    return plain[:place] + whole + plain[place:]


def segments(marker: int, beginning: bytes, content: bytes = NOISE) -> bytes:
    """A JPEG with `content` in as many segments of one kind as it takes."""
    plain = encoded(gradient(), "JPEG", quality=95)
    pieces = [beginning + content[at : at + 60_000] for at in range(0, len(content), 60_000)]
    return plain[:2] + b"".join(struct.pack(">BBH", 255, marker, len(each) + 2) + each for each in pieces) + plain[2:]


def long_metadata() -> dict[str, bytes]:
    """Good pictures whose metadata is longer than their pixels."""
    exif = b"Exif\0\0II*\0\x08\0\0\0\0\0\0\0\0\0" + NOISE
    squeezed = zlib.compress(NOISE)
    image = gradient()
    lossless: dict[str, Any] = {"lossless": True}
    return {
        "png-ztxt": png(b"zTXt", b"workflow\0\0" + squeezed),
        "png-ztxt-behind": png(b"zTXt", b"workflow\0\0" + squeezed, behind=True),
        "png-itxt": png(b"iTXt", b"workflow\0\1\0\0\0" + squeezed),
        "png-xmp": png(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + NOISE),
        "png-text": png(b"tEXt", b"parameters\0" + NOISE * 23),
        "png-icc": png(b"iCCP", b"printer\0\0" + squeezed),
        "png-exif": png(b"eXIf", exif[6:]),
        "webp-exif": encoded(image, "WEBP", exif=exif, **lossless),
        "webp-xmp": encoded(image, "WEBP", xmp=NOISE, **lossless),
        "webp-icc": encoded(image, "WEBP", icc_profile=NOISE, **lossless),
        "jpeg-exif": segments(0xE1, b"Exif\0\0"),
        "jpeg-xmp": segments(0xE1, b"http://ns.adobe.com/xap/1.0/\0"),
        "jpeg-icc": encoded(image, "JPEG", quality=95, icc_profile=NOISE),
        "jpeg-icc-odd": segments(0xE2, b"ICC_PROFILE\0\1\3"),
        "jpeg-photoshop": segments(0xED, b"Photoshop 3.0\0"),
        "jpeg-comment": segments(0xFE, b""),
        "avif-exif": encoded(image, "AVIF", quality=95, exif=exif),
        "avif-icc": encoded(image, "AVIF", quality=95, icc_profile=NOISE),
        "tiff-icc": encoded(image, "TIFF", icc_profile=NOISE),
        "gif-comment": encoded(image, "GIF", comment=NOISE),
    }


def test_long_metadata_does_not_make_a_good_picture_unreadable(tmp_path: Path) -> None:
    files = long_metadata()
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    found = dict(decode([(name, tmp_path / name) for name in files], CONFIG))
    rejected = {name: image.message for name, image in found.items() if isinstance(image, RejectedImage)}
    assert rejected == {}
    for name, image in found.items():
        assert isinstance(image, DecodedImage)
        assert len(image.content) < 100_000, name
        assert np.abs(stored_pixels(image) - np.asarray(gradient())).mean() < 8, name


def test_what_is_stored_of_it_opens_under_pillows_own_limits(tmp_path: Path) -> None:
    # Small enough to be stored as it is.
    for chunk, content in ((b"zTXt", b"a\0\0" + zlib.compress(bytes(2**21))), (b"tEXt", b"a\0b")):
        (tmp_path / f"{chunk.decode()}.png").write_bytes(png(chunk, content))
    long, short = decode_one(tmp_path / "zTXt.png"), decode_one(tmp_path / "tEXt.png")
    assert isinstance(long, DecodedImage)
    assert isinstance(short, DecodedImage)
    assert b"zTXt" not in long.content
    assert short.content == (tmp_path / "tEXt.png").read_bytes()
    assert (stored_pixels(long) == np.asarray(gradient())).all()


def test_the_orientation_in_long_metadata_counts(tmp_path: Path) -> None:
    xmp = b'<rdf:Description tiff:Orientation="6"/>' + NOISE
    (tmp_path / "a.png").write_bytes(png(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + zlib.compress(xmp)))
    found = decode_one(tmp_path / "a.png")
    assert isinstance(found, DecodedImage), found
    assert (found.width, found.height) == (30, 40)
    assert open_query_image(tmp_path / "a.png", CONFIG).size == (30, 40)


def test_a_text_that_grows_without_end_is_refused(tmp_path: Path) -> None:
    (tmp_path / "bomb.png").write_bytes(png(b"zTXt", b"bomb\0\0" + zlib.compress(bytes(2**28))))
    found = decode_one(tmp_path / "bomb.png", IngestConfig(workers=1, memory_mb=512))
    assert isinstance(found, RejectedImage)
    assert found.reason == "image-unreadable"


def noise(size: tuple[int, int], seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), np.uint8))


@pytest.mark.parametrize(
    ("image", "form"),
    [(gradient(), "PNG"), (gradient(), "JPEG"), (noise((300, 200)), "PNG"), (noise((300, 200)), "JPEG")],
    ids=["png", "jpeg", "large-png", "large-jpeg"],
)
def test_the_thumbnail_is_that_of_what_is_stored(tmp_path: Path, image: Image.Image, form: str) -> None:
    (tmp_path / "a").write_bytes(encoded(image, form))
    found = decode_one(tmp_path / "a")
    assert isinstance(found, DecodedImage)
    with Image.open(io.BytesIO(found.thumbnail)) as small, Image.open(io.BytesIO(thumbnail(found.content))) as later:
        assert small.format == "WEBP"
        assert max(small.size) == min(96, *(max(size) for size in (image.size, (256, 256))))
        assert small.size == later.size
        # The one is made of the pixels before they went through JPEG.
        assert np.abs(np.asarray(small, int) - np.asarray(later, int)).mean() < (0.1 if form == "PNG" else 8)


def test_a_part_of_a_file_is_an_image(tmp_path: Path) -> None:
    contents = [encoded(noise((20 + number, 20)), "PNG") for number in range(40)]
    (tmp_path / "all.tar").write_bytes(b"junk".join([b"", *contents]))
    starts = np.cumsum([4 + len(each) for each in contents]) - [len(each) for each in contents]
    slices = [
        FileSlice(tmp_path / "all.tar", int(start), len(each)) for start, each in zip(starts, contents, strict=True)
    ]
    found = [image for _, image in decode(enumerate(slices), CONFIG)]
    assert [image.content for image in found if isinstance(image, DecodedImage)] == contents


def test_a_slice_that_its_file_does_not_have_is_told_apart(tmp_path: Path) -> None:
    content = encoded(gradient(), "PNG")
    (tmp_path / "a.tar").write_bytes(content)
    os.mkfifo(tmp_path / "pipe")
    whole = len(content)
    asked = {
        "past the end": FileSlice(tmp_path / "a.tar", 1, whole),
        "behind the end": FileSlice(tmp_path / "a.tar", whole + 10, 5),
        "endless": FileSlice(tmp_path / "a.tar", 0, 2**62),
        "negative": FileSlice(tmp_path / "a.tar", 0, -1),
        "before the file": FileSlice(tmp_path / "a.tar", -5, 5),
        "cut": FileSlice(tmp_path / "a.tar", 0, whole - 30),
        "empty": FileSlice(tmp_path / "a.tar", 0, 0),
        "no file": FileSlice(tmp_path, 0, 5),
        "a pipe": FileSlice(tmp_path / "pipe", 0, 5),
        "gone": FileSlice(tmp_path / "gone.tar", 0, 5),
        "no path": FileSlice(tmp_path / "nul\0.tar", 0, 5),
        "good": FileSlice(tmp_path / "a.tar", 0, whole),
    }
    found = dict(decode(asked.items(), CONFIG))
    rejected = {name: image.reason for name, image in found.items() if isinstance(image, RejectedImage)}
    assert rejected == dict.fromkeys(list(asked)[:9], "image-unreadable") | dict.fromkeys(
        ["gone", "no path"], "image-not-found"
    )
    past = found["past the end"]
    assert isinstance(past, RejectedImage)
    assert not past.may_pass
    assert f"has {whole} bytes" in past.message


def test_images_that_are_asked_for_cost_only_themselves(tmp_path: Path) -> None:
    good = encoded(gradient(), "PNG")
    (tmp_path / "file.png").write_bytes(good)

    def refuse(error: Exception) -> Origin:
        def read() -> bytes:
            raise error

        return read

    origins: dict[str, Origin] = {
        "inline": lambda: good,
        "system": refuse(OSError("the share is away\nfor now")),
        "value": refuse(ValueError("no such row")),
        "empty": lambda: b"",
        "junk": lambda: b"no picture" * 1_000,
        "file": tmp_path / "file.png",
        "slice": FileSlice(tmp_path / "file.png", 0, len(good)),
        "again": lambda: good,
    }
    found = dict(decode(origins.items(), CONFIG))
    assert list(found) == list(origins)
    rejected = {
        name: (image.reason, image.may_pass) for name, image in found.items() if isinstance(image, RejectedImage)
    }
    unreadable = "image-unreadable"
    assert rejected == {
        "system": (unreadable, True),
        "value": (unreadable, False),
        "empty": (unreadable, False),
        "junk": (unreadable, False),
    }
    assert {image.content for image in found.values() if isinstance(image, DecodedImage)} == {good}
    system = found["system"]
    assert isinstance(system, RejectedImage)
    assert system.message == "the share is away for now"


def test_what_reading_an_image_raised_beside_its_contract_is_not_swallowed() -> None:
    def broken() -> bytes:
        raise KeyError("image")

    with pytest.raises(KeyError, match="image"):
        list(decode([(0, broken)], CONFIG))


def test_long_requests_and_long_replies_do_not_wait_for_one_another(tmp_path: Path) -> None:
    # Noise is stored as it is: replies are as long as the requests, and both longer than any pipe.
    long = encoded(noise((1_200, 1_000)), "PNG")
    assert len(long) > 3 * 2**20
    (tmp_path / "long.png").write_bytes(long)
    # A path that fills a pipe on its own.
    endless = tmp_path / ("n" * 200_000)
    origins: list[Origin] = []
    for _ in range(4):
        origins += [tmp_path / "long.png", endless, lambda: long, lambda: long, FileSlice(endless, 0, 5)]
    found = [image for _, image in decode(enumerate(origins), IngestConfig(workers=1, max_side=2_000))]
    assert [isinstance(image, DecodedImage) for image in found] == [True, False, True, True, False] * 4
    assert {image.content for image in found if isinstance(image, DecodedImage)} == {long}


def test_a_child_that_does_not_read_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # As one that a file has taken over may do.
    (tmp_path / "sitecustomize.py").write_text(
        "import os, sys, time\n"
        "if 'pairloom.storage.images.worker' in sys.orig_argv:\n"
        "    import pairloom.storage.images.worker as worker\n"
        "    os.write(1, worker.message({}))\n"
        "    time.sleep(1_000)\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    content = bytes(2**21)
    config = IngestConfig(workers=1, timeout_seconds=1)
    found = [image for _, image in decode([(0, lambda: content), (1, lambda: content)], config)]
    assert [image.reason for image in found if isinstance(image, RejectedImage)] == ["image-timeout"] * 2


@pytest.mark.parametrize("size", [(1_024, 768), (1_000, 700), (700, 513), (512, 512), (5_000, 40)])
def test_a_large_jpeg_is_stored_small_however_few_bytes_it_has(tmp_path: Path, size: tuple[int, int]) -> None:
    path = tmp_path / "large.jpg"
    Image.linear_gradient("L").convert("RGB").resize(size).save(path, quality=80)
    assert path.stat().st_size < 3 * CONFIG.max_side**2
    image = decoded(path)
    assert (image.width, image.height) == size
    pixels = stored_pixels(image)
    assert max(pixels.shape) == CONFIG.max_side
    with Image.open(path) as whole:
        expected = whole.resize((pixels.shape[1], pixels.shape[0]), Image.Resampling.BICUBIC)
    assert np.abs(pixels - np.asarray(expected)).mean() < 2
