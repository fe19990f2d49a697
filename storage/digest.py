"""Short, stable digests of plain values: the identities of parts, runs and configurations."""

import hashlib
import json
from typing import Any


def digest(value: Any) -> str:
    """The first 16 hex digits of the SHA-256 of `value` as canonical JSON. `value` holds JSON types only."""
    # Rows that can't be understood may hold half of a surrogate pair.
    canonical = json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(canonical.encode(errors="surrogatepass")).hexdigest()[:16]


def bytes_digest(content: bytes) -> str:
    """The first 32 hex digits of the SHA-256 of `content`."""
    return hashlib.sha256(content).hexdigest()[:32]
