"""Tonight's rows of a source, each with the known row that it is."""

# N = rows of a batch

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pairloom.storage.ingestion.images import Images
from pairloom.storage.ingestion.known_rows import Checked
from pairloom.storage.sources.image_folder import ImageFolder
from pairloom.storage.sources.raw_row import RawRow
from pairloom.storage.sources.rows import Batch, Source

_FORMAT = 1
"""Of what is written down of a row; rows known in another one are read again."""


@dataclass
class Listed:
    """Some rows in their order."""

    batch: Batch
    keys: Sequence[bytes]
    numbers: np.ndarray
    known: np.ndarray
    """Of each row the known row that it is, -1 where it must be read."""


class Listing:
    """Compares the rows of the sources with the known ones, which mostly come in the same order."""

    def __init__(self, images: Images) -> None:
        self._known = images.known
        self._trusted = images.rows_to_trust()
        self._next = 0
        """Where the next row is likely to be."""

    def rows(self, source: Source) -> Iterator[Listed]:
        """The rows of one source."""
        # A known image must lie where the images of this file's rows may.
        folders: dict[Path, ImageFolder] = {}
        for batch in source.batches():
            folder = folders.get(batch.file)
            if folder is None:
                folder = folders[batch.file] = ImageFolder(source.config.image_folder(batch.file))
            keys = _keys(batch, source.identity)
            known_N = self._find(np.frombuffer(b"".join(keys), np.uint64).reshape(-1, 2))
            numbers = np.fromiter((raw.number for raw in batch.rows), np.int64, len(batch.rows))
            yield Listed(batch, keys, numbers, self._still(known_N, batch.rows, folder))

    def skip(self, rows: int) -> np.ndarray | None:
        """The next so many known rows, of a source that has not changed; None where one must be looked at again."""
        known = np.arange(self._next, self._next + rows)
        if not (self._trusted[known] & (self._known.numbers("checked")[known] != Checked.FILE)).all():
            return None
        self._next += rows
        return known

    def _find(self, keys_N: np.ndarray) -> np.ndarray:
        known = self._known.numbers("key")
        following = known[self._next : self._next + len(keys_N)]
        equal = (following == keys_N[: len(following)]).all(axis=1)
        same = int(equal.argmin()) if len(equal) and not equal.all() else len(equal)
        found_N = np.full(len(keys_N), -1)
        found_N[:same] = np.arange(self._next, self._next + same)
        self._next += same
        if same < len(keys_N):
            found_N[same:] = self._known.find("key", keys_N[same:])
            if len(found := np.flatnonzero(found_N >= 0)):
                self._next = int(found_N[found[-1]]) + 1
        return found_N

    def _still(self, found_N: np.ndarray, raws: Sequence[RawRow], folder: ImageFolder) -> np.ndarray:
        """Known rows that are what they were, and -1 for the others."""
        still_N = found_N >= 0
        still_N[still_N] = self._trusted[found_N[still_N]]
        checked_N = np.full(len(found_N), Checked.NOTHING)
        checked_N[still_N] = self._known.numbers("checked")[found_N[still_N]]
        files = np.flatnonzero(checked_N == Checked.FILE)
        still_N[files] = folder.unchanged(self._images_of(found_N[files]))
        inside = np.flatnonzero(checked_N == Checked.INSIDE)
        images = (raws[place].image for place in inside.tolist())
        still_N[inside] = [
            image is not None and (image.key, image.version) == known
            for image, known in zip(images, self._images_of(found_N[inside]), strict=True)
        ]
        return np.where(still_N, found_N, -1)

    def _images_of(self, known: np.ndarray) -> Iterator[tuple[str, str]]:
        images, versions = (self._known.take(name, known).to_pylist() for name in ("image", "version"))
        return zip(images, versions, strict=True)


def _keys(batch: Batch, identity: str) -> list[bytes]:
    """What names each row among all that any source ever said: its text, where it stands and how it is read."""
    # Bytes of a name need not be UTF-8.
    read_by = f"{_FORMAT} {identity} {batch.file}".encode(errors="surrogateescape")
    secret = hashlib.blake2b(read_by, digest_size=32).digest()
    said = [raw.identity() for raw in batch.rows]
    for place, undecided in batch.aside.items():
        said[place] += f"\0where {undecided}"
    return [hashlib.blake2b(each.encode(errors="surrogatepass"), digest_size=16, key=secret).digest() for each in said]
