"""Images read a few at a time and kept a little while: the threads of the decoder ask for neighbours."""

from collections import OrderedDict
from collections.abc import Hashable

import pyarrow as pa

IMAGES_AT_ONCE = 16

_KEPT_BYTES = 2**27


class ImageBlocks:
    """The blocks of images that were asked for last, up to a number of bytes. Not for several threads at once."""

    def __init__(self) -> None:
        self._kept: OrderedDict[Hashable, pa.Array] = OrderedDict()
        self._bytes = 0

    def get(self, key: Hashable) -> pa.Array | None:
        """The block of this key, where it is still kept."""
        block = self._kept.get(key)
        if block is not None:
            self._kept.move_to_end(key)
        return block

    def keep(self, key: Hashable, block: pa.Array) -> None:
        """Keep a block, and let go of others."""
        self._kept[key] = block
        self._bytes += block.nbytes
        while len(self._kept) > 1 and self._bytes > _KEPT_BYTES:
            _, oldest = self._kept.popitem(last=False)
            self._bytes -= oldest.nbytes
