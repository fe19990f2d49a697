"""Caps per text and domain against counting one by one, and by what rows are counted."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pairloom.storage.fetching.config import FetchConfig
from pairloom.storage.images.config import IngestConfig
from pairloom.storage.images.location import Address, ImageAt, Origin
from pairloom.storage.ingestion.caps import Cap, cap_key, caps, domain
from pairloom.storage.ingestion.chunk import Became, Chunk
from pairloom.storage.ingestion.images import UNKNOWN, Found
from pairloom.storage.ingestion.known_rows import KnownRows
from pairloom.storage.ingestion.rejections import rejections
from pairloom.storage.ingestion.row_facts import facts, fresh_row
from pairloom.storage.ingestion.settling import Picture, Settling
from pairloom.storage.sources.raw_row import RawRow
from pairloom.storage.sources.source_row import SourceRow

ROWS = st.lists(st.tuples(st.sampled_from(["a", "b", "c", None]), st.booleans()), max_size=20)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.lists(ROWS, max_size=4), st.integers(1, 4))
def test_the_first_ones_stay_over_all_batches(batches: list[list[tuple[str | None, bool]]], limit: int) -> None:
    cap, counts = Cap(limit), dict.fromkeys("abc", 0)
    for batch in batches:
        expected = []
        for key, counted in batch:
            expected.append(counted and key is not None and counts[key] >= limit)
            if counted and key is not None:
                counts[key] += 1
        keys_N = np.array([cap_key(key) for key, _ in batch], np.uint64)
        assert cap.take(keys_N, np.array([counted for _, counted in batch], bool)).tolist() == expected


@pytest.mark.parametrize(
    ("address", "host"),
    [
        ("https://www.Example.org:8080/a.png?x=1", "example.org"),
        ("http://user:secret@images.example.org/a", "images.example.org"),
        ("pictures/a.png", None),
        ("s3://bucket/a.png", None),
        ("http://[::1", None),
        ("https:///a.png", None),
    ],
)
def test_a_domain_is_the_host_of_an_address(address: str, host: str | None) -> None:
    assert domain(address) == host


def test_images_are_counted_by_the_domain_of_their_address_and_texts_by_the_first_one() -> None:
    config = IngestConfig(max_per_text=2, max_per_domain=1)
    urls = ["http://a.org/1", None, "http://b.org/2", "https://www.a.org/3", None, "http://b.org/4"]
    texts = [("x",), ("x", "y"), ("x",), ("z", "x"), ("z",), ("y", "x")]
    fresh = []
    for number, (url, said) in enumerate(zip(urls, texts, strict=True)):
        origin: Origin = Address(url, FetchConfig(), "1") if url else Path("a.png")
        image = ImageAt(url or "a.png", "1", None, origin)
        row = SourceRow("rows", number, str(number), image, "an image", said, None, None, {})
        picture = Picture(f"{number:032x}", "0" * 16, 99, 99, f"{number:032x}")
        fresh.append(fresh_row(RawRow(number, "", None, dict), bytes(16), row, Found(picture, UNKNOWN), None))
    known = KnownRows(Path("none"))
    chunk = Chunk("rows", np.arange(6), np.full(6, -1), facts(fresh, config))
    chunk.settle(known, Settling(), config.limits, caps(config))
    item, text, domain_ = Became.ITEM, Became.TEXT_REPEATED, Became.DOMAIN_REPEATED
    # What the cap of its text leaves out does not count for its domain.
    assert chunk.became.tolist() == [item, item, text, domain_, item, item]
    found = rejections(known, [chunk], config).to_pylist()
    assert [(each["row"], each["outcome"], each["reason"], each["message"]) for each in found] == [
        (2, "filtered", "text-repeated", "earlier items with the same first text: 2"),
        (3, "filtered", "domain-repeated", "earlier items with images of the same domain: 1"),
    ]
