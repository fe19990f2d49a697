"""Near-duplicates against a double loop over all pairs."""

import itertools

import numpy as np
import pytest

from pairloom.hash_bands import band_masks, by_band
from pairloom.models.arrays import Indices
from pairloom.models.mining import near_duplicates as near_duplicates_module
from pairloom.models.mining.near_duplicates import (
    CROWD,
    THUMBNAIL,
    Thumbnails,
    near_duplicates,
    similar_hashes,
)

FLAT = "8000000000000000"


def hashes(count: int) -> list[str | None]:
    """Clusters of hashes a few bits apart, repeated ones, flat ones and missing ones, in random order."""
    random = np.random.default_rng(0)
    values: list[str | None] = [None, None, FLAT, FLAT]
    while len(values) < count:
        centre = int(random.integers(0, 2**63)) * 2 + 1
        for flips in (0, 0, 1, 2, 3, 5):
            bits = random.choice(64, size=flips, replace=False)
            values.append(f"{centre ^ sum(1 << int(bit) for bit in bits):016x}")
    return [values[place] for place in random.permutation(len(values))]


def nested_loops(values: list[str | None], bits: int) -> list[tuple[int, int]]:
    return [
        (i, j)
        for j, other in enumerate(values)
        for i, one in enumerate(values[:j])
        if one and other and FLAT not in (one, other) and (int(one, 16) ^ int(other, 16)).bit_count() <= bits
    ]


def test_similar_hashes_match_a_double_loop() -> None:
    values = hashes(200)
    for bits in (0, 1, 2, 4, 7):
        first_M, second_M = similar_hashes(values, bits)
        expected = sorted(nested_loops(values, bits))
        assert len(expected) > 20
        assert list(zip(first_M.tolist(), second_M.tolist(), strict=True)) == expected


def test_a_hash_that_a_crowd_shares_makes_no_pairs() -> None:
    shared: list[str | None] = ["123456789abcdef0"] * CROWD
    assert len(similar_hashes(shared, 2)[0]) == CROWD * (CROWD - 1) // 2
    assert len(similar_hashes([*shared, shared[0]], 2)[0]) == 0


def test_many_pictures_of_one_flat_colour_cost_nothing() -> None:
    assert len(similar_hashes([FLAT] * 100_000, 2)[0]) == 0


def test_only_candidates_are_looked_at_and_colours_tell_them_apart() -> None:
    values: list[str | None] = ["00000000000000f1", "00000000000000f1", "00000000000000f3", "ffffffff00000000"]
    colours_N3 = np.array([[200, 0, 0], [0, 0, 200], [202, 1, 0], [200, 0, 0]], dtype=np.uint8)
    asked: list[list[int]] = []

    def thumbnails(items_U: Indices) -> Thumbnails:
        asked.append(items_U.tolist())
        shape = (len(items_U), THUMBNAIL, THUMBNAIL, 3)
        return np.broadcast_to(colours_N3[items_U][:, None, None, :], shape)

    first_M, second_M = near_duplicates(values, 2, thumbnails)
    assert (first_M.tolist(), second_M.tolist()) == ([0], [2])
    assert asked == [[0, 1, 2]]


def test_without_candidates_no_thumbnail_is_read() -> None:
    def thumbnails(items_U: Indices) -> Thumbnails:
        raise AssertionError(f"asked for {items_U}")

    assert len(near_duplicates([None, FLAT, "00000000000000f1"], 2, thumbnails)[0]) == 0


def test_masks_for_any_number_of_hashes_agree_for_close_ones() -> None:
    random = np.random.default_rng(0)
    for bits, count in itertools.product((0, 1, 4, 9, 16), (10, 10**6, 10**8, 10**10)):
        masks = band_masks(bits, count)
        for _ in range(40):
            flipped = sum(1 << int(place) for place in random.choice(64, size=bits, replace=False))
            assert any(int(mask) & flipped == 0 for mask in masks)
    assert len(band_masks(4, 10**5)) < len(band_masks(4, 10**6)) < len(band_masks(4, 10**8))


def test_hashes_compared_under_other_masks_are_the_same_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    values = hashes(200)
    few = similar_hashes(values, 4)
    masks = band_masks(4, 10**8)
    monkeypatch.setattr(near_duplicates_module, "band_masks", lambda *_: masks)
    for one_M, other_M in zip(few, similar_hashes(values, 4), strict=True):
        np.testing.assert_array_equal(one_M, other_M)


@pytest.mark.parametrize("mask", [0, 2**64 - 1, 0xFF00, 0xF0F0_0000_FF00_000F, 0xFFFF_FFFF_FFFF_0001, 1 << 63])
def test_hashes_stand_in_the_order_of_what_is_under_a_mask(mask: int) -> None:
    hash_N = np.random.default_rng(0).integers(0, 2**64, 500, dtype=np.uint64)
    hash_N[::3] = hash_N[1]
    band_N, order_N = by_band(hash_N, np.uint64(mask))
    under = [int(each) & mask for each in hash_N]
    assert order_N.tolist() == sorted(range(500), key=lambda place: under[place])
    told = [(int(one), under[place]) for one, place in zip(band_N, order_N.tolist(), strict=True)]
    assert len({*told}) == len({*under}) == len({one for one, _ in told})
