"""Near-duplicates at ingest against nested loops, in every order, over nights, and on drawn pictures."""

import io
import itertools
from collections.abc import Iterator
from pathlib import Path

import imagehash
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw

from pairloom.hash_bands import band_masks
from pairloom.storage.ingestion import near_duplicates
from pairloom.storage.ingestion.near_duplicates import (
    CROWD,
    UNKNOWN,
    CloseHashes,
    Hashes,
    Indices,
    Mask,
    Remembered,
    candidates,
    followed,
    joined_keys,
    leaving,
    merged_texts,
)
from pairloom.storage.ingestion.near_pictures import NearPictures

CENTRES = (0, 1 << 63, 0x0F0F0F0F0F0F0F0F, 0x123456789ABCDEF0)
FLIPS = st.lists(st.integers(0, 63), max_size=6)
HASHES = st.lists(
    st.builds(lambda centre, flips: centre ^ sum({1 << bit for bit in flips}), st.sampled_from(CENTRES), FLIPS),
    max_size=30,
)


def array(values: list[int]) -> Hashes:
    return np.array(values, np.uint64)


def always(earlier_M: Indices, _later_M: Indices) -> Mask:
    return np.ones(len(earlier_M), bool)


def near(one: int, other: int, bits: int) -> bool:
    return (one ^ other).bit_count() <= bits


def followed_by_hand(values: list[int], bits: int) -> list[int]:
    """The first earlier one in reach that follows none itself."""
    found: list[int] = []
    for place, value in enumerate(values):
        leaders = (each for each in range(place) if found[each] == each and near(values[each], value, bits))
        found.append(next(leaders, place))
    return found


@settings(max_examples=150, deadline=None, derandomize=True)
@given(HASHES, st.integers(0, 8))
def test_close_hashes_match_a_double_loop(values: list[int], bits: int) -> None:
    close = CloseHashes.none(bits).with_hashes(array(values))
    expected = sorted(pair for pair in itertools.combinations(sorted(set(values)), 2) if near(*pair, bits))
    assert list(zip(close.firsts_M.tolist(), close.seconds_M.tolist(), strict=True)) == expected


@settings(max_examples=150, deadline=None, derandomize=True)
@given(st.lists(HASHES, min_size=1, max_size=4), st.integers(0, 8))
def test_what_earlier_nights_compared_changes_nothing(nights: list[list[int]], bits: int) -> None:
    close = CloseHashes.none(bits)
    for values in nights:
        close = close.with_hashes(array(values))
    afresh = CloseHashes.none(bits).with_hashes(array(nights[-1]))
    for name in ("hashes_V", "firsts_M", "seconds_M"):
        assert getattr(close, name).tolist() == getattr(afresh, name).tolist()


def test_hashes_of_many_are_compared_under_other_masks_to_the_same_end(monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(0)
    old = random.integers(0, 2**64, 300, dtype=np.uint64)
    new = old[:100] ^ (np.uint64(1) << random.integers(0, 64, 100, dtype=np.uint64))
    few = CloseHashes.none(4).with_hashes(old).with_hashes(np.concatenate([old, new]))
    assert len(few.firsts_M) == 100
    masks = band_masks(4, 10**8)
    monkeypatch.setattr(near_duplicates, "band_masks", lambda *_: masks)
    many = CloseHashes.none(4).with_hashes(old).with_hashes(np.concatenate([old, new]))
    for name in ("firsts_M", "seconds_M"):
        np.testing.assert_array_equal(getattr(few, name), getattr(many, name))


@settings(max_examples=150, deadline=None, derandomize=True)
@given(HASHES.filter(lambda values: all(values.count(each) <= CROWD for each in values)), st.integers(0, 8))
def test_each_follows_the_first_one_in_reach_that_follows_none(values: list[int], bits: int) -> None:
    close = CloseHashes.none(bits).with_hashes(array(values))
    assert followed(array(values), close, always).tolist() == followed_by_hand(values, bits)


def test_a_chain_does_not_pull_what_is_far_apart_together() -> None:
    values = [0b0, 0b11, 0b1111, 0b111111]
    close = CloseHashes.none(2).with_hashes(array(values))
    assert followed(array(values), close, always).tolist() == [0, 0, 2, 2]


def test_a_crowd_of_one_hash_costs_no_square_and_follows_its_first() -> None:
    values = array([7] * 5_000)
    close = CloseHashes.none(4).with_hashes(values)
    assert len(candidates(values, close)[0]) < 5_000 * CROWD
    assert set(followed(values, close, always).tolist()) == {0}


def test_pictures_decide_where_hashes_are_equal() -> None:
    values = array([7, 7, 7, 7])
    colours = np.array([1, 2, 1, 2])
    close = CloseHashes.none(4).with_hashes(values)
    found = followed(values, close, lambda earlier_M, later_M: colours[earlier_M] == colours[later_M])
    assert found.tolist() == [0, 1, 0, 1]


@settings(max_examples=150, deadline=None, derandomize=True)
@given(st.lists(st.tuples(st.sampled_from("abcdef"), st.integers(0, 7)), max_size=8))
def test_whatever_resembles_one_another_has_the_key_of_the_earliest(drawn: list[tuple[str, int]]) -> None:
    keys = [key for key, _ in drawn]
    follows = [min(place, other) for place, (_, other) in enumerate(drawn)]
    linked = {key: {key} for key in keys}
    for place, other in enumerate(follows):
        both = linked[keys[place]] | linked[keys[other]]
        linked.update(dict.fromkeys(both, both))
    expected = [min(linked[key], key=keys.index) for key in keys]
    assert joined_keys(keys, np.array(follows, np.int64)) == expected


def test_a_picture_whose_split_is_named_otherwise_stays() -> None:
    follows = np.array([0, 0, 0, 0, 4, 4, 4])
    named = np.array([0, -1, 1, 0, -1, 1, -1], np.int8)
    assert leaving(follows, named).tolist() == [False, True, False, True, False, False, True]


@settings(max_examples=150, deadline=None, derandomize=True)
@given(HASHES.filter(lambda values: all(values.count(each) <= CROWD for each in values)), st.integers(0, 8), st.data())
def test_what_is_remembered_is_not_compared_nor_what_follows_by_that(
    values: list[int], bits: int, data: st.DataObject
) -> None:
    colours = np.array(data.draw(st.lists(st.integers(0, 1), min_size=len(values), max_size=len(values))), np.int64)
    known = data.draw(st.integers(0, len(values)))
    asked: list[tuple[int, int]] = []

    def agree(earlier_M: Indices, later_M: Indices) -> Mask:
        asked.extend(zip(earlier_M.tolist(), later_M.tolist(), strict=True))
        return np.asarray(colours[earlier_M] == colours[later_M])

    def recall(earlier_M: Indices, later_M: Indices) -> Remembered:
        return np.where(later_M < known, colours[earlier_M] == colours[later_M], UNKNOWN).astype(np.int8)

    close = CloseHashes.none(bits).with_hashes(array(values))
    afresh = followed(array(values), close, agree).tolist()
    asked.clear()
    assert followed(array(values), close, agree, recall).tolist() == afresh
    assert len(set(asked)) == len(asked)
    assert all(later >= known for _, later in asked)
    assert all(afresh[earlier] == earlier for earlier, _ in asked if earlier < known)


def test_merged_texts_keep_their_order_and_come_once() -> None:
    texts = [("a", "b"), ("c",), ("b", "d"), ("e",), ("d", "f")]
    assert merged_texts(texts, np.array([0, 1, 0, 3, 0])) == {0: ("a", "b", "d", "f")}
    assert merged_texts(texts, np.arange(5)) == {}


class Gallery:
    """Pictures in memory, and which of them were opened."""

    def __init__(self, **pictures: Image.Image) -> None:
        self.names = list(pictures)
        self.pictures = list(pictures.values())
        self.opened: list[str] = []

    @property
    def hashes(self) -> Hashes:
        return np.array([int(str(imagehash.phash(each)), 16) for each in self.pictures], np.uint64)

    def open(self, places_U: Indices) -> Iterator[tuple[int, Image.Image]]:
        for place in places_U.tolist():
            self.opened.append(self.names[place])
            yield place, self.pictures[place]

    def followed(self, folder: Path, bits: int = 4) -> dict[str, str]:
        """Which picture each follows, for those that do."""
        self.opened = []
        near = NearPictures(folder, bits)
        found = near.followed(self.hashes, self.names, self.open)
        near.save()
        return {self.names[a]: self.names[b] for a, b in enumerate(found.tolist()) if a != b}


def drawing(colour: str, size: int = 128) -> Image.Image:
    picture = Image.new("RGB", (128, 128), "white")
    draw = ImageDraw.Draw(picture)
    draw.regular_polygon((50, 60, 40), 5, fill=colour)
    draw.rectangle((80, 20, 120, 50), fill="grey")
    return picture.resize((size, size), Image.Resampling.BICUBIC)


def saved(picture: Image.Image, form: str, **options: int) -> Image.Image:
    stream = io.BytesIO()
    picture.save(stream, form, **options)
    return Image.open(stream).convert("RGB")


@pytest.fixture
def gallery() -> Gallery:
    red = drawing("#996666")
    return Gallery(red=red, blue=drawing("#667799"), jpeg=saved(red, "JPEG", quality=90), large=drawing("#996666", 256))


def test_copies_follow_and_another_colour_does_not(tmp_path: Path, gallery: Gallery) -> None:
    values = gallery.hashes
    assert all(near(int(values[0]), int(each), 4) for each in values), "the hash alone can't tell the colours"
    assert gallery.followed(tmp_path) == {"jpeg": "red", "large": "red"}


def test_what_was_compared_is_not_opened_again_until_it_is_forgotten(tmp_path: Path, gallery: Gallery) -> None:
    first = gallery.followed(tmp_path)
    assert sorted(gallery.opened) == sorted(gallery.names)
    assert gallery.followed(tmp_path) == first
    assert gallery.opened == []
    gallery.names.append("again")
    gallery.pictures.append(saved(drawing("#667799"), "JPEG", quality=95))
    assert gallery.followed(tmp_path) == {**first, "again": "blue"}
    for file in tmp_path.glob("near-*.parquet"):
        file.unlink()
    assert gallery.followed(tmp_path) == {**first, "again": "blue"}


def test_other_bits_and_damaged_memories_start_anew(tmp_path: Path, gallery: Gallery) -> None:
    first = gallery.followed(tmp_path)
    assert gallery.followed(tmp_path, bits=8) == first
    for file in tmp_path.glob("near-*.parquet"):
        file.write_bytes(b"no Parquet file")
    assert gallery.followed(tmp_path) == first


def test_the_order_of_the_sources_says_who_stays(tmp_path: Path, gallery: Gallery) -> None:
    turned = Gallery(**dict(reversed(list(zip(gallery.names, gallery.pictures, strict=True)))))
    gallery.followed(tmp_path)
    assert turned.followed(tmp_path) == {"jpeg": "large", "red": "large"}
