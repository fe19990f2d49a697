"""Where stored images lie in the files of their parts, so that any one of them is read by itself.

Parquet reads pages of a thousand images at once. Ours are neither compressed nor in a dictionary
(`parquet.write_parquet`), so that each lies in its part's file as it is. From object storage each is a request of its
own.
"""

# N = images

import mmap
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pairloom.storage.corpus import Corpus, Part, Snapshot
from pairloom.storage.files import copy_in, make_folder
from pairloom.storage.objects import ObjectPath

PLACE = np.dtype([("part", "<i4"), ("length", "<i4"), ("offset", "<i8")])
"""The number of a part in the snapshot, and the bytes of its file that are an image."""
Places = npt.NDArray[np.void]
REQUESTS = 32
"""Images of object storage that are read at once: a request waits for its answer most of the time."""


def write_places(
    corpus: Corpus, snapshot: Snapshot, split: str | None, path: Path, found: Callable[[int], None]
) -> None:
    """Write where the images of `split` lie, of all splits for None: an array (N,) of `PLACE`, in the corpus' order.

    Every image is read once and compared with what lies at its place. `found` hears how many there are so far. Of
    object storage one part at a time is on this machine's disk meanwhile.
    """
    places: list[Places] = [np.empty(0, PLACE)]
    for number, part in enumerate(snapshot.parts):
        with _at_hand(corpus, part) as near:
            places.append(np.array([(number, *place) for place in _of_part(near, snapshot, part, split)], PLACE))
        found(sum(map(len, places)))
    with path.open("wb") as file:
        np.save(file, np.concatenate(places))


def _of_part(corpus: Corpus, snapshot: Snapshot, part: Part, split: str | None) -> Iterator[tuple[int, int]]:
    """Length and offset of each image of a part. ValueError where one is not in the file as it is."""
    path, at = corpus.part_path(part), 0
    among = None if split is None else ("split", pa.array([split]))
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        for batch in corpus.read(snapshot, part, ["image"], among=among):
            for image in batch["image"].to_pylist():
                if (at := content.find(image["bytes"], at)) < 0:
                    raise ValueError(f"{path} has its images compressed: none is read alone (training.pixels: file)")
                yield len(image["bytes"]), at
                at += len(image["bytes"])


@contextmanager
def _at_hand(corpus: Corpus, part: Part) -> Iterator[Corpus]:
    """A corpus of this machine that holds a part: a copy, for as long as this lasts, where it is on object storage."""
    path = corpus.part_path(part)
    if not isinstance(path, ObjectPath):
        yield corpus
        return
    with tempfile.TemporaryDirectory(prefix="pairloom-") as folder:
        copy = Corpus(Path(folder))
        make_folder(copy.part_path(part).parent)
        copy_in(path, copy.part_path(part))
        yield copy


class StoredImages:
    """Images read one by one from the files of a snapshot's parts."""

    def __init__(self, places: Path, files: Sequence[Path]) -> None:
        """`places` is what `write_places` wrote, `files` are those of the snapshot's parts."""
        self._places_N: Places = np.lib.format.open_memmap(places, mode="r")
        self._files = files

    @property
    def at_once(self) -> int | None:
        """How many threads should read; None where it is decoding alone that takes time."""
        return REQUESTS if any(isinstance(path, ObjectPath) for path in self._files) else None

    def __len__(self) -> int:
        return len(self._places_N)

    def read(self, row: int) -> bytes:
        """One image as it is stored. Called by any thread."""
        part, length, offset = self._places_N[row].item()
        path = self._files[part]
        if isinstance(path, ObjectPath):
            return path.read_range(offset, length)
        with path.open("rb") as file:
            file.seek(offset)
            content: bytes = file.read(length)
        return content
