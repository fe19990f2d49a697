"""Hits that show one picture, folded into the best of them."""

# N = hits, best first, D = embedding

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from pairloom.storage.images.decoding import open_stored
from pairloom.storage.ingestion.near_duplicates import same_pictures
from pairloom.storage.ingestion.near_pictures import thumbnail
from pairloom.storage.table.index import Floats

LIKELY = 0.9
"""Least cosine of two pictures that are looked at: one picture, however it was re-encoded, is embedded alike."""


def folded(vector_ND: Floats, thumbnails: Sequence[bytes]) -> npt.NDArray[np.int64]:
    """For each hit the place of the first that shows the same picture to the eye, its own where it is the first.

    As near-duplicates are told at ingest, by their small colour pictures; here of the table's thumbnails.
    """
    first_N = np.arange(len(vector_ND), dtype=np.int64)
    alike_NN = vector_ND @ vector_ND.T >= LIKELY
    small = dict[int, npt.NDArray[np.uint8]]()

    def picture(place: int) -> npt.NDArray[np.uint8]:
        if place not in small:
            small[place] = thumbnail(open_stored(thumbnails[place]))
        return small[place]

    for place in range(1, len(first_N)):
        earlier = [each for each in np.flatnonzero(alike_NN[place, :place]).tolist() if first_N[each] == each]
        if earlier:
            others = np.stack([picture(each) for each in earlier])
            same = np.flatnonzero(same_pictures(others, np.broadcast_to(picture(place), others.shape)))
            if len(same):
                first_N[place] = earlier[int(same[0])]
    return first_N
