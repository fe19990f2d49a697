"""A release as a service holds it: open for long, asked by many at once."""

from collections.abc import Sequence
from functools import cached_property
from threading import Lock
from typing import TYPE_CHECKING

from pairloom.search.release import OpenRelease
from pairloom.search.web.batching import TextBatches

if TYPE_CHECKING:
    from pairloom.models.arrays import Embeddings

MOST = 16
"""Texts that are encoded at once: more would load torch for towers that need none for a few."""


class ServedRelease(OpenRelease):
    """An open release that encodes the texts of all callers together."""

    def embed_texts(self, texts: Sequence[str]) -> "Embeddings":
        """Float32 (N, D), L2-normalised, by the text tower that made this release's vectors."""
        return self.batches(texts)

    @property
    def batches(self) -> TextBatches:
        """What encodes them."""
        with _making:
            return self._batches

    @cached_property
    def _batches(self) -> TextBatches:
        return TextBatches(super().embed_texts, most=MOST)

    @property
    def key(self) -> str:
        """What names its content in addresses: another release of the same number, after a fresh start, has another."""
        return f"{self.record.number}-{self.record.snapshot_digest[:6]}{self.record.model_id[:6]}"


_making = Lock()
