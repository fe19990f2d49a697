"""Caps per text and domain against counting one by one."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pairloom.storage.ingestion.caps import Cap, cap_keys, domain

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
        keys_N = cap_keys([key for key, _ in batch])
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
