"""Most items of one text, most of one domain: of more, the first ones in source order stay."""

# N = rows in source order, U = different keys

import hashlib
from collections import Counter
from urllib.parse import urlsplit

import numpy as np
import numpy.typing as npt

from pairloom.storage.images.config import IngestConfig

Keys = npt.NDArray[np.uint64]
Mask = npt.NDArray[np.bool_]

NO_KEY = 0
"""Of what is in no cap: an image that is a file has no domain."""


class Cap:
    """Counts what has one key, over batches of rows in source order."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._counts: Counter[int] = Counter()

    def take(self, keys_N: Keys, counted_N: Mask) -> Mask:
        """Which rows are above the cap (N,): of those that are `counted`, as many earlier ones have the same key."""
        above_N = np.zeros(len(keys_N), bool)
        rows_M = np.flatnonzero(counted_N & (keys_N != NO_KEY))
        keys_U, key_M, counts_U = np.unique(keys_N[rows_M], return_inverse=True, return_counts=True)
        before_U = np.array([self._counts[key] for key in keys_U.tolist()], np.int64)
        order_M = np.argsort(key_M, kind="stable")
        nth_M = np.empty(len(rows_M), np.int64)
        nth_M[order_M] = np.arange(len(rows_M)) - np.repeat(np.cumsum(counts_U) - counts_U, counts_U)
        above_N[rows_M] = nth_M + before_U[key_M] >= self._limit
        # Those above it count on; they stay above it.
        self._counts.update(dict(zip(keys_U.tolist(), counts_U.tolist(), strict=True)))
        return above_N


def caps(config: IngestConfig) -> dict[str, Cap]:
    """Tonight's caps, each by the column of its keys."""
    limits = {"text_key": config.max_per_text, "domain_key": config.max_per_domain}
    return {column: Cap(limit) for column, limit in limits.items() if limit is not None}


def cap_key(value: str | None) -> int:
    """Key of a text or domain, `NO_KEY` for None."""
    if value is None:
        return NO_KEY
    return int.from_bytes(hashlib.blake2b(value.encode(errors="surrogatepass"), digest_size=8).digest()) or 1


def domain(address: str) -> str | None:
    """The host that an http(s) address names, in lower case, without port and `www.`; None for all else."""
    try:
        parts = urlsplit(address)
        host = parts.hostname
    except ValueError:
        return None
    return host.removeprefix("www.").rstrip(".") or None if host and parts.scheme in ("http", "https") else None
