"""The content box: what is cut, what is left as it is, and that queries, stored pictures and histories agree on it."""

import io
import json
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image, ImageDraw, ImageFilter
from released_pipeline import MODEL_ID, publish

from pairloom.flows.scoring import Question, block_of
from pairloom.models.encoder import Encoder
from pairloom.search.classify import Classes, add_examples
from pairloom.search.query import Query, query_vector
from pairloom.search.release import OpenRelease
from pairloom.storage.corpus import Corpus, Snapshot
from pairloom.storage.images.config import IngestConfig
from pairloom.storage.images.content_box import MARGIN, content_square, framed
from pairloom.storage.images.decoding import open_query_image, open_stored
from pairloom.storage.images.location import Origin
from pairloom.storage.images.stored_image import DecodedImage, RejectedImage, decode_file
from pairloom.storage.ingest import Ingest, RowCounts
from pairloom.storage.parquet import sealed_aside
from pairloom.storage.releases import Release, Training
from pairloom.storage.schema import item_schema
from pairloom.storage.snapshots import EMPTY
from pairloom.storage.sources.columns import ColumnsConfig
from pairloom.storage.sources.config import JsonlSource
from pairloom.tasks.decide import training_digest
from pairloom.tasks.pipeline import Pipeline

DATA = Path(__file__).parents[1].parent / "shared" / "data"
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason="needs the development bundle")
ON, OFF = IngestConfig(workers=1, min_side=1), IngestConfig(workers=1, min_side=1, trim=False)


def drawing(
    box: tuple[int, int, int, int], size: tuple[int, int] = (100, 100), background: str = "white"
) -> Image.Image:
    """A red ellipse with a blue heart, whose last pixels are those of `box`."""
    picture = Image.new("RGB", size, background)
    draw = ImageDraw.Draw(picture)
    left, top, right, bottom = box
    draw.ellipse((left, top, right - 1, bottom - 1), fill="red")
    draw.rectangle(
        (left + (right - left) // 3, top + (bottom - top) // 3, (left + right) // 2, bottom - 8), fill="navy"
    )
    return picture


def photograph(size: tuple[int, int] = (120, 80)) -> Image.Image:
    """Soft noise from side to side."""
    noise = np.random.default_rng(0).integers(0, 255, (size[1] // 8, size[0] // 8, 3), np.uint8)
    return Image.fromarray(noise).resize(size, Image.Resampling.BICUBIC).filter(ImageFilter.GaussianBlur(2))


def saved(image: Image.Image, form: str, **options: Any) -> Image.Image:
    stream = io.BytesIO()
    image.save(stream, form, **options)
    return Image.open(stream)


def cut(image: Image.Image, max_side: int = 256) -> Image.Image:
    square = content_square(image)
    assert square is not None
    return framed(image, square, max_side)


def extent(image: Image.Image) -> tuple[int, int, int, int]:
    """Where anything is far from white."""
    dark = Image.fromarray((255 - np.asarray(image).min(axis=2) > 100).astype(np.uint8))
    found = dark.getbbox()
    assert found is not None
    return found


def far(one: Image.Image, other: Image.Image) -> float:
    """How far two pictures are from one another, of 255, in the size of the first."""
    same = other.resize(one.size, Image.Resampling.BICUBIC)
    return float(np.abs(np.asarray(one).astype(int) - np.asarray(same)).mean())


def test_content_stands_in_the_middle_of_a_square_with_its_margin() -> None:
    wide = cut(drawing((10, 40, 90, 60)))
    assert wide.width == wide.height == pytest.approx(80 * (1 + 2 * MARGIN), abs=3)
    left, top, right, bottom = extent(wide)
    assert (left, wide.width - right) == pytest.approx((80 * MARGIN, 80 * MARGIN), abs=2)
    assert top == pytest.approx(wide.height - bottom, abs=1)


@pytest.mark.parametrize("place", [(0, 0), (60, 3), (31, 60)])
def test_where_content_stands_does_not_matter(place: tuple[int, int]) -> None:
    middle, moved = (drawing((x, y, x + 40, y + 40)) for x, y in ((30, 30), place))
    assert far(cut(middle), cut(moved)) < 12
    assert far(middle, moved) > 20


@pytest.mark.parametrize("background", ["white", "black", "#3366aa"])
@pytest.mark.parametrize("quality", [None, 90, 60])
def test_any_plain_background_is_cut_through_the_noise_of_jpeg(background: str, quality: int | None) -> None:
    picture = drawing((60, 50, 140, 170), (240, 200), background)
    noisy = picture if quality is None else saved(picture, "JPEG", quality=quality).convert("RGB")
    square, plain = content_square(noisy), content_square(picture)
    assert square is not None
    assert plain is not None
    assert plain.side == pytest.approx(120 * (1 + 2 * MARGIN), rel=0.05)
    # JPEG spreads colours over a few pixels.
    assert (square.left, square.top, square.side) == pytest.approx((plain.left, plain.top, plain.side), abs=9)
    assert np.abs(np.array(square.background, int) - plain.background).max() <= 8


def test_a_light_grey_plate_on_white_is_content() -> None:
    plate = Image.new("RGB", (72, 72), "white")
    plate.paste((0xEE, 0xEE, 0xEE), (6, 16, 66, 56))
    plate.paste((200, 30, 30), (30, 30, 42, 42))
    square = content_square(plate)
    assert square is not None
    assert square.side == pytest.approx(60 * (1 + 2 * MARGIN), rel=0.05)


def test_copies_of_other_sizes_are_cut_alike() -> None:
    picture = drawing((60, 50, 140, 170), (240, 200))
    wanted = cut(picture, 64)
    for scale in (0.5, 1.5, 4, 9):
        copy = picture.resize((round(240 * scale), round(200 * scale)), Image.Resampling.BICUBIC)
        assert far(wanted, cut(copy, 64)) < 4


def test_transparency_counts_as_the_white_that_it_shows(tmp_path: Path) -> None:
    opaque = drawing((30, 40, 70, 60))
    clear = opaque.convert("RGBA")
    clear.putalpha(Image.fromarray(np.where(np.asarray(opaque).min(axis=2) < 250, 255, 0).astype(np.uint8)))
    # What lies invisible below nothing, and white on nothing, are no content.
    pixels = np.asarray(clear).copy()
    pixels[pixels[..., 3] == 0, :3] = (0, 255, 0)
    pixels[2:8, 2:8] = (255, 255, 255, 255)
    Image.fromarray(pixels).save(tmp_path / "clear.png")
    opaque.save(tmp_path / "opaque.png")
    found, wanted = (decode_file(tmp_path / name, ON.limits) for name in ("clear.png", "opaque.png"))
    assert isinstance(found, DecodedImage)
    assert found.trimmed
    assert found == wanted


def test_a_photograph_is_stored_as_it_is(tmp_path: Path) -> None:
    photograph().save(tmp_path / "photograph.jpg", quality=80)
    found = decode_file(tmp_path / "photograph.jpg", ON.limits)
    assert isinstance(found, DecodedImage)
    assert found.content == (tmp_path / "photograph.jpg").read_bytes()
    assert found == decode_file(tmp_path / "photograph.jpg", OFF.limits)


@pytest.mark.parametrize(
    "image",
    [
        Image.new("RGB", (50, 40), "white"),
        Image.new("RGB", (1, 1), "red"),
        Image.new("RGB", (1, 300), "red"),
        saved(Image.new("RGB", (64, 64), "#f4f0e8"), "JPEG").convert("RGB"),
        photograph(),
        Image.linear_gradient("L").convert("RGB"),
    ],
    ids=["blank", "one pixel", "a line", "a blank JPEG", "a photograph", "a gradient"],
)
def test_what_has_no_content_box_is_left(image: Image.Image) -> None:
    assert content_square(image) is None


def test_a_speck_is_not_blown_up_over_the_whole_square() -> None:
    picture = Image.new("RGB", (160, 160), "white")
    picture.putpixel((100, 20), (0, 0, 0))
    assert cut(picture).size == (20, 20)


@pytest.mark.parametrize("size", [(2, 2), (3, 500), (500, 3), (16, 200_000), (40, 41)])
def test_extreme_shapes_become_squares_of_no_more_than_the_longest_side(size: tuple[int, int]) -> None:
    picture = Image.new("RGB", size, "white")
    middle = (size[0] // 2, size[1] // 2, size[0] // 2 + 1, size[1] - 1)
    picture.paste((0, 0, 0), middle)
    square = content_square(picture)
    if square is not None:
        made = framed(picture, square, 64)
        assert made.width == made.height <= 64


def test_a_picture_that_was_cut_is_cut_to_itself() -> None:
    once = cut(drawing((20, 10, 80, 50)))
    twice = cut(once)
    assert abs(twice.width - once.width) <= 1
    assert far(once, twice) < 3


def test_small_content_of_a_large_jpeg_keeps_its_pixels(tmp_path: Path) -> None:
    drawing((900, 700, 1060, 860), (1600, 1200)).save(tmp_path / "large.jpg", quality=95)
    found = decode_file(tmp_path / "large.jpg", IngestConfig(max_side=128).limits)
    plain = decode_file(tmp_path / "large.jpg", IngestConfig(max_side=128, trim=False).limits)
    assert isinstance(found, DecodedImage)
    assert isinstance(plain, DecodedImage)
    stored = Image.open(io.BytesIO(found.content))
    assert stored.size == (128, 128)
    # The id of an item may be made of it.
    assert (found.width, found.height, found.pixel_hash) == (1600, 1200, plain.pixel_hash)
    whole = drawing((900, 700, 1060, 860), (1600, 1200))
    assert far(cut(whole, 128), stored) < 5 < far(cut(whole, 128), cut(whole.resize((200, 150)), 128))


@needs_data
def test_drawings_are_cut_and_photographs_are_not() -> None:
    def share(collection: str, of: Callable[[dict[str, Any]], bool]) -> float:
        with (DATA / collection / "captions.jsonl").open(encoding="utf-8") as lines:
            rows = [row for row in map(json.loads, lines) if of(row)][:: 40 if collection != "photos" else 8]
        found = [decode_file(DATA / row["image"], ON.limits) for row in rows]
        return float(np.mean([each.trimmed for each in found if isinstance(each, DecodedImage)]))

    assert share("emoji", lambda row: row["source"] == "openmoji") > 0.98
    assert share("emoji", lambda row: row["source"] == "twemoji") > 0.7
    assert share("grocery", lambda _: True) == 0
    assert share("photos", lambda row: row["subgroup"] == "photo-or-artwork") < 0.25


def test_a_query_is_made_like_what_is_stored_of_the_same_file(tmp_path: Path) -> None:
    """By path, in memory, as another file of the same look, as what is stored; not cut where that is off."""
    picture = drawing((20, 10, 80, 50))
    picture.save(tmp_path / "item.png")
    picture.save(tmp_path / "copy.jpg", quality=92)
    record, encoder = publish(tmp_path / "served"), Encoder.load(tmp_path / "served" / "models" / MODEL_ID)
    for config in (ON, OFF):
        found = decode_file(tmp_path / "item.png", config.limits)
        assert isinstance(found, DecodedImage)
        own = open_stored(found.content)
        update = {"trim": config.trim, "max_side": config.max_side}
        release = OpenRelease(tmp_path / "served", record.model_copy(update=update))
        (stored_D,) = encoder.embed_images([own])
        for query, least in (
            (tmp_path / "item.png", 1 - 1e-6),
            (Image.open(tmp_path / "item.png"), 1 - 1e-6),
            (picture.convert("RGBA"), 1 - 1e-6),
            (tmp_path / "copy.jpg", 0.99),
            (own, 0.99),
        ):
            assert float(query_vector(release, Query(image=query)) @ stored_D) > least
        assert (open_query_image(tmp_path / "item.png", release.as_ingested).size == (100, 100)) is not config.trim


def test_examples_of_classes_are_cut_as_the_release_is(tmp_path: Path) -> None:
    """Those that were added before its pictures were cut, too."""
    drawing((20, 10, 80, 50)).save(tmp_path / "item.png")
    folder = tmp_path / "served"
    record = publish(folder).model_copy(update={"max_side": 256})
    plain, trimmed = (OpenRelease(folder, record.model_copy(update={"trim": trim})) for trim in (False, True))
    add_examples(plain, "drawing", [tmp_path / "item.png"])
    for release in (plain, trimmed, plain):
        classes = Classes(release)
        own_D = classes.mean_directions[classes.names.index("drawing")]
        (wanted_D,) = release.encoder.embed_images([open_query_image(tmp_path / "item.png", release.as_ingested)])
        assert float(own_D @ wanted_D) > 1 - 1e-5


class Decoder:
    """Decodes in this process, and says what."""

    def __init__(self) -> None:
        self.decoded: list[str] = []

    def __call__(
        self, items: Iterable[tuple[Any, Origin]], config: IngestConfig
    ) -> Iterator[tuple[Any, DecodedImage | RejectedImage]]:
        for key, path in items:
            assert isinstance(path, Path), "these sources name files"
            self.decoded.append(path.name)
            yield key, decode_file(path, config.limits)


@pytest.fixture
def collection(tmp_path: Path) -> JsonlSource:
    """Two drawings, a photograph, a blank picture and a broken file."""
    drawing((20, 10, 80, 50)).save(tmp_path / "wide.png")
    drawing((60, 50, 140, 170), (240, 200)).save(tmp_path / "tall.jpg", quality=90)
    photograph().save(tmp_path / "photograph.png")
    Image.new("RGB", (30, 20), "white").save(tmp_path / "blank.png")
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    names = ("wide.png", "tall.jpg", "photograph.png", "blank.png", "broken.png")
    rows = [{"image": name, "text": name.split(".")[0]} for name in names]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return JsonlSource(path=tmp_path / "rows.jsonl", name="rows")


def night(
    folder: Path, source: JsonlSource, **config: Any
) -> tuple[Snapshot, RowCounts, dict[str, dict[str, Any]], list[str]]:
    """A night's snapshot, counts, items by text, and what was decoded for it."""
    decoder, corpus = Decoder(), Corpus(folder)
    settings = IngestConfig.model_validate({"workers": 1, "min_side": 4, **config})
    snapshot, counts = Ingest(corpus, {}, settings, decoder).run([source], ColumnsConfig())
    names = [name for name in item_schema({}).names if name != "ingested_at"]
    items = {row["texts"][0]: row for row in corpus.table(snapshot, names).to_pylist()}
    return snapshot, counts, items, decoder.decoded


def test_switched_on_and_off_the_corpus_is_what_a_first_night_leaves(tmp_path: Path, collection: JsonlSource) -> None:
    cut_ones = ["wide.png", "tall.jpg"]
    everything = [*cut_ones, "photograph.png", "blank.png"]
    off, on = (night(tmp_path / name, collection, trim=trim)[2] for name, trim in (("off", False), ("on", True)))
    assert {name for name in on if on[name] != off[name]} == {"wide", "tall"}
    assert {name: row["item_id"] for name, row in on.items()} == {name: row["item_id"] for name, row in off.items()}
    snapshots = []
    # What was found to have no content box need not be looked at again, whichever way the switch goes.
    for trim, wanted, decoded, updated in (
        (False, off, [*everything, "broken.png"], 0),
        (True, on, everything, 2),
        (False, off, cut_ones, 2),
        (True, on, cut_ones, 2),
    ):
        snapshot, counts, items, seen = night(tmp_path / "grown", collection, trim=trim)
        assert items == wanted
        assert seen == decoded
        assert counts.updated == updated
        assert snapshot.trim is trim
        snapshots.append(snapshot.digest)
        _, counts, items, seen = night(tmp_path / "grown", collection, trim=trim)
        assert (items, seen, counts.updated) == (wanted, [], 0)
    assert len(set(snapshots)) == 4


def test_another_max_side_decodes_again_what_was_cut(tmp_path: Path, collection: JsonlSource) -> None:
    night(tmp_path / "grown", collection, max_side=250)
    _, _, items, decoded = night(tmp_path / "grown", collection, max_side=260)
    assert decoded == ["wide.png", "tall.jpg", "broken.png"]
    assert items == night(tmp_path / "first", collection, max_side=260)[2]


def test_a_collection_of_photographs_is_marked_and_nothing_of_it_written(
    tmp_path: Path, collection: JsonlSource
) -> None:
    collection = collection.model_copy(update={"where": "image LIKE 'p%'"})
    before, *_ = night(tmp_path, collection, trim=False)
    after, counts, _, _ = night(tmp_path, collection, trim=True)
    assert (before.trim, after.trim) == (False, True)
    assert (before.parts, counts.unchanged) == (after.parts, 1)
    assert before.digest != after.digest


def without_trim(path: Path) -> None:
    """Known rows as versions wrote them that cut nothing."""
    table = pq.read_table(path).drop_columns(["trim"])
    with sealed_aside(path, table.schema, compression="LZ4") as writer:
        writer.write_table(table)


def test_rows_known_by_an_earlier_version_are_those_of_pictures_that_were_not_cut(
    tmp_path: Path, collection: JsonlSource
) -> None:
    off = night(tmp_path / "grown", collection, trim=False)[2]
    without_trim(tmp_path / "grown" / "known" / "rows.parquet")
    _, counts, items, decoded = night(tmp_path / "grown", collection, trim=False, max_per_text=5)
    assert (items, decoded, counts.unchanged) == (off, [], 4)
    without_trim(tmp_path / "grown" / "known" / "rows.parquet")
    _, counts, items, decoded = night(tmp_path / "grown", collection)
    assert items == night(tmp_path / "first", collection)[2]
    assert (len(decoded), counts.updated, counts.unchanged) == (4, 2, 2)


def test_records_of_earlier_versions_say_that_nothing_was_cut() -> None:
    release = Release(
        number=1,
        files={},
        created_at=datetime(2026, 11, 1, tzinfo=UTC),
        snapshot=1,
        snapshot_digest="0",
        model_id="m",
        table="vectors/m.lance",
        table_version=1,
        rows=1,
        dimension=8,
        max_side=64,
        keep={},
        index=None,
        metrics={},
        training=Training(config_digest="0", items=1, trained_at=datetime(2026, 11, 1, tzinfo=UTC), verdict="released"),
        reason="",
    )
    older = release.model_dump(mode="json", exclude={"trim"})
    assert Release.model_validate(older).trim is False
    assert EMPTY.trim is False
    # The digests of what was there before stay what they were.
    assert (
        Snapshot(**{**EMPTY.model_dump(), "keep": {}, "trim": False}).digest
        == EMPTY.model_copy(update={"keep": {}}).digest
    )


def test_a_model_is_trained_anew_where_pictures_are_cut_from_now_on(tmp_path: Path) -> None:
    def shaped(**ingest: bool) -> str:
        block = {"name": "p", "root": tmp_path, "sources": [{"kind": "folder", "path": tmp_path}], "ingest": ingest}
        return training_digest(Pipeline.model_validate(block))

    assert shaped() == shaped(trim=True) != shaped(trim=False)


def test_a_model_is_measured_on_pictures_cut_as_those_it_learned_from(tmp_path: Path) -> None:
    (tmp_path / "pictures").mkdir()

    def asked(lineage: str | None) -> object:
        model = tmp_path / f"model-{lineage is None or len(lineage)}"
        model.mkdir()
        if lineage is not None:
            (model / "pairloom.json").write_text(lineage)
        question = Question(model=str(model), pretrained=None, data=tmp_path / "pictures")
        return block_of(question, None)["ingest"]["trim"]

    lineages = (None, '{"trim": true}', '{"trim": false}', '{"older": 1}', "damaged", "[]")
    assert [asked(each) for each in lineages] == [False, True, False, False, False, False]
