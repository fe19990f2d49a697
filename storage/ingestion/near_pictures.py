"""Near-duplicates over nights: what was compared once is not compared again. Can be deleted at any time."""

import logging
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
from PIL import Image

from pairloom.storage.digest import digest
from pairloom.storage.files import DamagedError
from pairloom.storage.ingestion.near_duplicates import (
    THUMBNAIL,
    UNKNOWN,
    CloseHashes,
    Hashes,
    Indices,
    Mask,
    Remembered,
    Thumbnails,
    ascending,
    followed,
    same_pictures,
)
from pairloom.storage.parquet import read_parquet, write_parquet
from pairloom.storage.schema import NEAR_HASHES, NEAR_PICTURES

logger = logging.getLogger(__name__)

OpenImages = Callable[[Indices], Iterator[tuple[int, Image.Image]]]
"""The stored images of some places, in any order, each with its place."""

_PAIRS_AT_ONCE = 10_000
"""Pairs whose small pictures are held in memory together: 6 KiB each at most."""


class NearPictures:
    """Which of tonight's pictures are almost an earlier one."""

    def __init__(self, folder: Path, bits: int) -> None:
        """What was found on earlier nights is kept in `folder`."""
        self._folder, self._bits = folder, bits
        self._hashes, self._pictures = folder / "near-hashes.parquet", folder / "near-pictures.parquet"
        self._close = CloseHashes.none(bits)
        self._same: dict[tuple[str, str], bool] = {}
        self._kept = (self._close, self._same)
        try:
            self._close = _close(_read(self._hashes, NEAR_HASHES), bits)
            known = _read(self._pictures, NEAR_PICTURES)
            self._same = {(row["first"], row["second"]): row["same"] for row in known.to_pylist()}
            self._kept = (self._close, self._same)
        except (DamagedError, pa.ArrowInvalid) as error:
            logger.warning("near-duplicates are looked for anew: %s", error)

    def followed(self, hashes_N: Hashes, stored_N: Sequence[str], open_images: OpenImages) -> Indices:
        """The place of the picture that each follows (N,), its own where it follows none, as `near_duplicates` says.

        `stored_N` are digests of what is stored of each. Only pictures whose hashes are close are opened, and only for
        pairs that were never compared.
        """
        self._close = self._close.with_hashes(hashes_N)
        before, self._same = self._same, {}

        def pairs(earlier_M: Indices, later_M: Indices) -> list[tuple[str, str]]:
            ends = [(stored_N[a], stored_N[b]) for a, b in zip(earlier_M.tolist(), later_M.tolist(), strict=True)]
            return [(min(each), max(each)) for each in ends]

        def recall(earlier_M: Indices, later_M: Indices) -> Remembered:
            asked = pairs(earlier_M, later_M)
            self._same = {pair: before[pair] for pair in asked if pair in before}
            # Equal digests are equal pictures.
            found = (before.get(pair, True if pair[0] == pair[1] else UNKNOWN) for pair in asked)
            return np.fromiter(found, np.int8, len(asked))

        def agree(earlier_M: Indices, later_M: Indices) -> Mask:
            agreed_M = np.zeros(len(earlier_M), bool)
            for start in range(0, len(earlier_M), _PAIRS_AT_ONCE):
                rows = slice(start, start + _PAIRS_AT_ONCE)
                agreed_M[rows] = _compared(earlier_M[rows], later_M[rows], open_images)
            self._same |= dict(zip(pairs(earlier_M, later_M), agreed_M.tolist(), strict=True))
            return agreed_M

        return followed(hashes_N, self._close, agree, recall)

    @property
    def digest(self) -> str:
        """Of what is remembered of pairs."""
        return digest([self._bits, sorted(self._same.items())])

    def save(self) -> None:
        """Write down what was compared, for the next night; nothing where that is what an earlier one wrote down."""
        close, (kept, same) = self._close, self._kept
        if np.array_equal(kept.hashes_V, close.hashes_V) and same == self._same:
            return
        first, second = (np.concatenate([close.hashes_V, each]) for each in (close.firsts_M, close.seconds_M))
        bits = np.full(len(first), self._bits, np.int8)
        write_parquet(pa.Table.from_arrays([first, second, bits], schema=NEAR_HASHES), self._hashes)
        rows = [{"first": a, "second": b, "same": same} for (a, b), same in sorted(self._same.items())]
        write_parquet(pa.Table.from_pylist(rows, NEAR_PICTURES), self._pictures)


def thumbnail(image: Image.Image) -> Thumbnails:
    """`image` as small as near-duplicates are compared, uint8 (THUMBNAIL, THUMBNAIL, 3), box-averaged."""
    return np.asarray(image.resize((THUMBNAIL, THUMBNAIL), Image.Resampling.BOX), np.uint8)


def _compared(earlier_M: Indices, later_M: Indices, open_images: OpenImages) -> Mask:
    wanted_U = np.unique(np.concatenate([earlier_M, later_M]))
    small_U = np.zeros((len(wanted_U), THUMBNAIL, THUMBNAIL, 3), np.uint8)
    for place, image in open_images(wanted_U):
        small_U[np.searchsorted(wanted_U, place)] = thumbnail(image)
    return same_pictures(*(small_U[np.searchsorted(wanted_U, ends_M)] for ends_M in (earlier_M, later_M)))


def _read(path: Path, schema: pa.Schema) -> pa.Table:
    return pa.Table.from_batches(read_parquet(path), schema) if path.is_file() else schema.empty_table()


def _close(known: pa.Table, bits: int) -> CloseHashes:
    """Every hash is a pair with itself in the file; hashes compared with other bits are forgotten."""
    first, second, of = (known[name].to_numpy() for name in ("first", "second", "bits"))
    own = (first == second) & (of == bits)
    pairs = (first != second) & (of == bits)
    return CloseHashes(bits, ascending(first[own]), first[pairs], second[pairs])
