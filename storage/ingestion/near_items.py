"""What near-duplicates make of tonight's items: who leaves, whose texts come along, which groups share a split."""

# J = rows that settling made items, N = items, R = items that stay without a row, K = rows of groups that are joined

import io
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path

import numpy as np
import pyarrow as pa
from PIL import Image

from pairloom.storage.digest import digest
from pairloom.storage.images.config import IngestConfig
from pairloom.storage.ingestion.chunk import Became, Chunk, of_items
from pairloom.storage.ingestion.known_rows import KnownRows, as_numbers
from pairloom.storage.ingestion.near_duplicates import Hashes, Indices, Mask, joined_keys, leaving, merged_texts
from pairloom.storage.ingestion.near_pictures import NearPictures
from pairloom.storage.ingestion.part_writer import Values

OpenStored = Callable[[set[str]], Iterator[tuple[str, bytes]]]
"""What is stored of pictures with some digests, in any order, each with its digest."""


class NearItems:
    """Tonight's near-duplicates, under `merge` or `drop`."""

    def __init__(self, folder: Path, config: IngestConfig) -> None:
        """What was compared on earlier nights is in `folder`."""
        self._pictures = NearPictures(folder, config.near_duplicate_bits)
        self._merge = config.near_duplicates == "merge"
        self.memory = self._pictures.digest
        """Digest of what was compared before."""
        self.leaving_J: Mask = np.zeros(0, bool)
        """Which rows follow another one and so are no items."""
        self.place_J: Indices = np.zeros(0, np.int64)
        """The place of each of the others among tonight's items."""
        self.revised: dict[str, Values] = {}
        """Texts and content of the items that get texts of others."""

    def judge(self, rows: KnownRows, chunks: Sequence[Chunk], open_stored: OpenStored) -> None:
        """Make those that leave near-duplicates; to be called once."""
        self._hashes_J = as_numbers(of_items(rows, chunks, "perceptual_hash"))[:, 0]
        self._stored_J = [each.hex() for each in of_items(rows, chunks, "stored_digest").to_pylist()]
        self._positions_J = as_numbers(of_items(rows, chunks, "group"))
        self._followed_J = self._followed(self._hashes_J, self._stored_J, open_stored)
        self.leaving_J = leaving(self._followed_J, as_numbers(of_items(rows, chunks, "split")))
        self.place_J = np.cumsum(~self.leaving_J) - 1
        if self._merge:
            self._revise(rows, chunks)
        firsts = pa.array(self._followed_J[self.leaving_J])
        twins = iter(of_items(rows, chunks, "item_id").take(firsts).to_pylist())
        start = 0
        for chunk in chunks:
            items = np.flatnonzero(chunk.became == Became.ITEM)
            leave = items[self.leaving_J[start : start + len(items)]]
            chunk.became[leave] = Became.NEAR_DUPLICATE
            chunk.twins = list(islice(twins, len(leave)))
            start += len(items)

    def joined(self, positions_N: Hashes, staying: "Staying", open_stored: OpenStored) -> Hashes:
        """The positions of the groups of some items (N,), once groups whose pictures resemble one another have one.

        Items that stay without a row come after all rows: their groups are joined, but they leave for nobody.
        """
        followed, positions = self._followed_J, self._positions_J
        if len(staying.hashes_R):
            hashes = np.concatenate([self._hashes_J, staying.hashes_R])
            followed = self._followed(hashes, [*self._stored_J, *staying.stored_R], open_stored)
            positions = np.concatenate([positions, staying.positions_R])
        follow = np.flatnonzero(followed != np.arange(len(followed)))
        groups = np.unique(positions[np.concatenate([follow, followed[follow]])])
        rows_K = np.flatnonzero(np.isin(positions, groups))
        keys_K = joined_keys(positions[rows_K].tolist(), np.searchsorted(rows_K, followed[rows_K]))
        _, first = np.unique(positions[rows_K], return_index=True)
        joined = np.array(keys_K, np.uint64)[first]
        concerned_N = np.isin(positions_N, groups)
        found_N = positions_N.copy()
        found_N[concerned_N] = joined[np.searchsorted(groups, positions_N[concerned_N])]
        return found_N

    def save(self) -> None:
        """Write down what was compared."""
        self._pictures.save()
        self.memory = self._pictures.digest

    def _followed(self, hashes: Hashes, stored: Sequence[str], open_stored: OpenStored) -> Indices:
        def open_images(places_U: Indices) -> Iterator[tuple[int, Image.Image]]:
            places: dict[str, list[int]] = {}
            for place in places_U.tolist():
                places.setdefault(stored[place], []).append(place)
            for found, content in open_stored(set(places)):
                image = Image.open(io.BytesIO(content)).convert("RGB")
                yield from ((place, image) for place in places[found])

        return self._pictures.followed(hashes, stored, open_images)

    def _revise(self, rows: KnownRows, chunks: Sequence[Chunk]) -> None:
        concerned_J = self.leaving_J.copy()
        concerned_J[self._followed_J[self.leaving_J]] = True
        rows_K = np.flatnonzero(concerned_J)
        texts, item_ids, contents = (
            of_items(rows, chunks, name, concerned_J).to_pylist() for name in ("texts", "item_id", "content_digest")
        )
        followed_K = np.where(self.leaving_J[rows_K], self._followed_J[rows_K], rows_K)
        for place, merged in merged_texts(texts, np.searchsorted(rows_K, followed_K)).items():
            if list(merged) != texts[place]:
                changed = {"texts": list(merged), "content_digest": digest([contents[place], merged])}
                self.revised[item_ids[place]] = changed


class Staying:
    """Items that stay without a row."""

    def __init__(self, perceptual_hashes: Sequence[str], stored_R: Sequence[str], positions_R: Hashes) -> None:
        words = b"".join(bytes.fromhex(each) for each in perceptual_hashes)
        self.hashes_R: Hashes = np.frombuffer(words, np.uint64)
        self.stored_R = stored_R
        self.positions_R = positions_R
